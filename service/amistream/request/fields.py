"""The small models of which requests are made: a group of fields each. An absent field (None) takes the setting."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ByteSize,
    ConfigDict,
    Field,
    PositiveInt,
    model_validator,
)

from amistream.request.options import DESTINATION, IDENTITY, IMAGE, REGISTRATION, SPEED, TREE, Option, setting_field
from amistream.request.words import (
    AMI_NAME_PATTERN,
    AbsolutePath,
    Category,
    TagKey,
    check_account,
    check_fstab,
    check_label,
    check_mappings,
    check_pattern,
    check_source,
    split_categories,
)
from amistream.settings import Sparse, common_architecture
from amistream.values import KIB

Source = Annotated[str, AfterValidator(check_source), Option("SOURCE", "")]
SOURCE = (
    "Directory, such as /, block device, EBS snapshot (snap-ID), or image file: raw, qcow2, VMDK, VHD, VHDX, VDI, QED, "
    "Parallels; - is standard input, which the command reads itself, without the daemon."
)


class Fields(BaseModel):
    """A group of fields. Unknown ones are refused. A model is built when it is used first: a command uses few."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class LabelField(Fields):
    """The label of a job."""

    label: Annotated[Annotated[str, AfterValidator(check_label)], Option("--label", "", "TEXT")] = Field(
        "", max_length=255, description="Text that is shown with the job, to find it by: `amistream jobs --label TEXT`."
    )


class Reach(Fields):
    """Region and endpoint of AWS."""

    region: Annotated[str | None, Option("--region", DESTINATION, "REGION")] = setting_field(
        "region", pattern=r"^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$"
    )
    endpoint_url: Annotated[str | None, Option("--endpoint-url", DESTINATION, "URL")] = setting_field(
        "endpoint_url", pattern=r"^https?://[^\s/?#]+(/[^\s?#]*)?$"
    )


class KeyFields(Fields):
    """Certificate and private key of the user."""

    certificate: Annotated[AbsolutePath | None, Option("--cert", IDENTITY, "FILE", ("EC2_CERT",))] = setting_field(
        "certificate"
    )
    private_key: Annotated[AbsolutePath | None, Option("--private-key", IDENTITY, "FILE", ("EC2_PRIVATE_KEY",))] = (
        setting_field("private_key")
    )


class Ec2CertificateField(Fields):
    """The certificate of EC2, for which the key of a bundle is encrypted."""

    ec2_certificate: Annotated[AbsolutePath | None, Option("--ec2-cert", IDENTITY, "FILE")] = Field(
        None, description="EC2's X.509 certificate, PEM; if not given, the one of the region."
    )


class Identity(Ec2CertificateField, KeyFields):
    """The owner of a bundle, and the certificates for which its key is encrypted."""

    account: Annotated[
        Annotated[str, AfterValidator(check_account)] | None,
        Option("--account", IDENTITY, "123456789012", ("EC2_ACCOUNT_ID", "AWS_ACCOUNT_ID")),
    ] = setting_field("account")


class KernelFields(Fields):
    """Architecture, kernel and devices of an image."""

    architecture: Annotated[
        Literal["i386", "x86_64", "arm64"] | None,
        BeforeValidator(common_architecture),
        Option("--arch", IMAGE, "i386|x86_64|arm64"),
    ] = setting_field("architecture")
    kernel: Annotated[str | None, Option("-k --kernel", IMAGE, "aki-ID")] = Field(
        None, pattern="^[ae]ki-[0-9a-fA-F]{8,17}$", description="Kernel of a paravirtual AMI."
    )
    ramdisk: Annotated[str | None, Option("-r --ramdisk", IMAGE, "ari-ID")] = Field(
        None, pattern="^[ae]ri-[0-9a-fA-F]{8,17}$", description="RAM disk of a paravirtual AMI."
    )
    block_device_mappings: Annotated[
        dict[str, str],
        AfterValidator(check_mappings),
        Option("-B --block-device-mapping", IMAGE, "VIRTUAL=DEVICE,..."),
    ] = Field(
        default_factory=dict,
        description="Virtual name and device, such as ephemeral0=sdb,root=/dev/sda1; may be repeated.",
    )


class BootFields(KernelFields):
    """Boot options of the image that bundles and snapshots have in common."""

    strict: Annotated[bool, Option("--strict", IMAGE)] = Field(
        False, description="Refuse the job if the AMI will not boot; default: go on, with notices."
    )

    @property
    def is_hvm(self) -> bool:
        """The image boots by itself, not by a kernel of EC2."""
        raise NotImplementedError


class RegistrationFields(Fields):
    """Registration of the AMI in EC2, of whatever kind."""

    register_image: Annotated[bool | None, Option("--register/--no-register", REGISTRATION)] = Field(
        None, description="Register the AMI; default: yes, but not for a directory."
    )
    ami_name: Annotated[str | None, Option("--ami-name", REGISTRATION, "NAME")] = Field(
        None, pattern=AMI_NAME_PATTERN, description="Name of the AMI; default: the prefix, the time and a random token."
    )
    description: Annotated[str | None, Option("--description", REGISTRATION, "TEXT")] = Field(
        None, max_length=255, description="Description of the AMI."
    )
    tags: Annotated[
        dict[TagKey, Annotated[str, Field(max_length=256)]],
        Option("--tag", REGISTRATION, "KEY=VALUE"),
    ] = Field(default_factory=dict, max_length=50, description="Tag of the AMI; may be repeated.")


class MachineFields(Fields):
    """Use of the machine and of the link by a job."""

    workers: Annotated[PositiveInt | None, Option("--workers", SPEED, "N")] = setting_field("workers", le=256)
    sparse: Annotated[Sparse | None, Option("--sparse", SPEED, "auto|always|never")] = setting_field("sparse")
    limit_upload: Annotated[ByteSize | None, Option("--limit-upload", SPEED, "RATE")] = setting_field(
        "limit_upload", ge=16 * KIB
    )
    memory_limit: Annotated[ByteSize | None, Option("--memory-limit", SPEED, "SIZE")] = setting_field("memory_limit")
    nice: Annotated[int | None, Option("--nice", SPEED, "0..19")] = setting_field("nice", ge=0, le=19)


class Subject(Fields):
    """The volume, as far as it is given."""

    source: Source | None = Field(None, description=SOURCE)
    image_size: Annotated[ByteSize | None, Option("--image-size", "", "SIZE")] = Field(
        None, gt=0, description="Exact size of a SOURCE that comes through a pipe, such as 10GiB."
    )
    source_format: Annotated[Literal["raw"] | None, Option("--source-format", "", "raw")] = Field(
        None,
        description="raw: SOURCE's bytes are the disk, whatever they look like; default: recognise its format.",
    )
    partition: Annotated[
        Literal["auto", "clone", "mbr", "gpt", "none"], Option("--partition", "", "auto|clone|mbr|gpt|none")
    ] = Field(
        "auto",
        description="Boot area of a directory, or of a bare ext2, ext3, ext4 or xfs file system. clone: that of the "
        "directory's own disk; mbr, gpt: a new table, and this machine's GRUB; auto: for a directory the first of "
        "clone, mbr and none that works, for others none.",
    )
    live: Annotated[bool, Option("--live", "")] = Field(
        False, description="Read SOURCE even though it is mounted read-write; safe only while nothing writes to it."
    )
    freeze: Annotated[bool, Option("--freeze", "")] = Field(
        False,
        description="Freeze the file systems of SOURCE that are mounted read-write until all is read: writers wait, "
        "and the image is consistent. Not for those of the system.",
    )


Patterns = tuple[Annotated[str, AfterValidator(check_pattern), Field(max_length=4096)], ...]


class TreeFields(Fields):
    """Of a SOURCE that is a directory: the file system made of it, and what comes in."""

    size: Annotated[ByteSize | None, Option("--size", TREE, "SIZE")] = Field(
        None, gt=0, description="Size of the image; default: that of the directory's disk, at most `max_image_size`."
    )
    file_system: Annotated[
        Literal["ext4", "ext3", "ext3-128", "ext2", "ext4-csum", "xfs"] | None,
        Option("--fs", TREE, "ext4|ext3|ext3-128|ext2|ext4-csum|xfs"),
    ] = Field(
        None,
        description="File system of the image; default: ext4, or that of the directory if it is ext2 or ext3, or xfs "
        "with --partition clone. xfs needs root, and space for a copy of all files.",
    )
    exclude: Annotated[Patterns, Option("--exclude", TREE, "PATTERN")] = Field(
        (), max_length=1000, description="Leave out what matches, as rsync does; may be repeated."
    )
    include: Annotated[Patterns, Option("--include", TREE, "PATTERN")] = Field(
        (), max_length=1000, description="Take in what matches, whatever leaves it out; may be repeated."
    )
    clean: Annotated[
        tuple[Category, ...],
        BeforeValidator(split_categories),
        Option("--clean", TREE, "secrets,history,identity,logs,caches|all|none"),
    ] = Field(
        ("secrets", "history"),
        description="Leave out private keys, authorized_keys and the like; histories of shells; this machine's "
        "identity (its machine-id comes in empty); log files; caches. Default: secrets,history.",
    )
    overlay: Annotated[AbsolutePath | None, Option("--overlay", TREE, "DIR")] = Field(
        None, description="Lay what is in DIR over SOURCE: its files win, directories are merged. It comes in whole."
    )
    grub_config: Annotated[AbsolutePath | None, Option("--grub-config", TREE, "FILE")] = Field(
        None,
        description="Put FILE into the image as /boot/grub/menu.lst, for GRUB legacy and PV-GRUB. The earlier one "
        "becomes menu.lst.old.",
    )
    script: Annotated[AbsolutePath | None, Option("--script", TREE, "FILE")] = Field(
        None,
        description="Run FILE, as root, on a view of SOURCE, whose path is its argument; what it changes there is in "
        "the image only.",
    )
    fstab: Annotated[str, AfterValidator(check_fstab), Option("--fstab", TREE, "keep|generate|FILE")] = Field(
        "keep",
        description="/etc/fstab of the image. generate: the directory's own, with the image's root and nofail for all "
        "else; FILE: that one. The earlier one becomes fstab.old.",
    )
    all_file_systems: Annotated[bool, Option("--all", TREE)] = Field(
        False, description="Take in what is mounted below SOURCE, too; default: its own file system only."
    )
    allow_unreadable: Annotated[bool, Option("--allow-unreadable", TREE)] = Field(
        False, description="Bundle files that cannot be read as zeros; default: stop before the first byte."
    )
    report: Annotated[AbsolutePath | None, Option("--report", TREE, "FILE")] = Field(
        None, description="Write there what was left out and by which rule, and which files changed meanwhile."
    )


# pydantic takes the fields of the last base first.
class VolumeRequest(MachineFields, BootFields, KeyFields, Reach, TreeFields, LabelField, Subject):
    """The fields that decide about the volume of a job of any kind, for checks."""

    @model_validator(mode="after")
    def _volume_fits(self) -> Self:
        if self.partition in ("clone", "mbr", "gpt") and not self.is_hvm:
            raise ValueError("a boot area (partition) needs virtualization hvm")
        if self.partition in ("mbr", "gpt") and self.architecture == "arm64":
            raise ValueError("partition mbr or gpt needs an architecture with a BIOS: i386 or x86_64")
        if self.freeze and self.live:
            raise ValueError("freeze: leave live out: nothing is written while it is frozen")
        return self

    @property
    def outputs(self) -> tuple[str, ...]:
        """The destinations that are written to, for checks that nothing is bundled into itself."""
        return ()
