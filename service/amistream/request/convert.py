"""The request of a conversion: an EBS snapshot, and an AMI from it, of a volume, a directory or a bundle."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, ByteSize, Field, PositiveInt, model_validator

from amistream.events import JobKind
from amistream.request.fields import RegistrationFields, VolumeRequest
from amistream.request.options import IMAGE, REGISTRATION, SNAPSHOT, SPEED, Option, setting_field
from amistream.request.words import (
    KMS_KEY_PATTERN,
    ROOT_DEVICE_PATTERN,
    TagKey,
    check_convertible,
)
from amistream.values import GIB

LARGEST_VOLUME = 65536 * GIB
"""Bytes of an EBS volume. AWS limit."""

SOURCE = (
    "Manifest of a bundle (s3://BUCKET/KEY or a file), directory, such as /, block device, image file, or snapshot "
    "(snap-ID); - is standard input, which the command reads itself, without the daemon."
)


class SnapshotFields(VolumeRequest):
    """The snapshot that is made."""

    volume_size: Annotated[ByteSize | None, Option("--volume-size", SNAPSHOT, "SIZE")] = Field(
        None,
        gt=0,
        le=LARGEST_VOLUME,
        description="Size of the volumes that are made of the snapshot; default: the image's, rounded up to GiB.",
    )
    encrypted: Annotated[bool, Option("--encrypted", SNAPSHOT)] = Field(
        False, description="Encrypt the snapshot with the account's default key for EBS."
    )
    kms_key_id: Annotated[str | None, Option("--kms-key-id", SNAPSHOT, "KEY")] = Field(
        None, pattern=KMS_KEY_PATTERN, description="Encrypt the snapshot with this KMS key: its id or ARN."
    )
    snapshot_tags: Annotated[
        dict[TagKey, Annotated[str, Field(max_length=256)]],
        Option("--snapshot-tag", SNAPSHOT, "KEY=VALUE"),
    ] = Field(default_factory=dict, max_length=45, description="Tag of the snapshot; may be repeated.")


class EbsRegistrationFields(RegistrationFields):
    """Registration of the AMI. An absent field takes what the bundle has, where SOURCE is one."""

    virtualization: Annotated[
        Literal["hvm", "paravirtual"] | None, Option("--virtualization", IMAGE, "hvm|paravirtual")
    ] = Field(None, description="Virtualization type of the AMI; default: the bundle's, else hvm.")
    root_device: Annotated[str | None, Option("--root-device", REGISTRATION, "DEVICE")] = Field(
        None,
        pattern=ROOT_DEVICE_PATTERN,
        description="Device name of the root volume; default: /dev/xvda, paravirtual: /dev/sda1 or /dev/sda.",
    )
    boot_mode: Annotated[
        Literal["legacy-bios", "uefi", "uefi-preferred"] | None,
        Option("--boot-mode", REGISTRATION, "legacy-bios|uefi|uefi-preferred"),
    ] = Field(None, description="Boot mode of the AMI; default: that of the instance type.")
    ena: Annotated[bool | None, Option("--ena/--no-ena", REGISTRATION)] = Field(
        None, description="Enhanced networking with ENA; default: what the bundle's AMI has."
    )
    sriov: Annotated[bool | None, Option("--sriov/--no-sriov", REGISTRATION)] = Field(
        None, description="Enhanced networking with the Intel 82599 VF; default: what the bundle's AMI has."
    )
    imds_support: Annotated[Literal["v2.0"] | None, Option("--imds-support", REGISTRATION, "v2.0")] = Field(
        None, description="v2.0: instances of the AMI answer requests for metadata with a token only."
    )
    volume_type: Annotated[
        Literal["gp3", "gp2", "standard"],  # EC2 boots from no st1 or sc1, and asks for the speed of io1 and io2
        Option("--volume-type", REGISTRATION, "gp3|gp2|standard"),
    ] = Field("gp3", description="Type of the root volume of an instance.")
    copy_tags: Annotated[bool, Option("--copy-tags", REGISTRATION)] = Field(
        False, description="Give the AMI the tags of the AMI that is registered from the bundle."
    )


class SpeedOfPuts(VolumeRequest):
    """Requests to EBS."""

    puts: Annotated[PositiveInt | None, Option("--puts", SPEED, "N")] = setting_field("puts", le=256)


# pydantic takes the fields of the last base first.
class ConvertCheckRequest(SpeedOfPuts, EbsRegistrationFields, SnapshotFields):
    """The fields of a conversion, for checks alone: the source may be left out."""

    kind: Literal[JobKind.CONVERT] = Field(description="Work of the job.")
    source: Annotated[str, AfterValidator(check_convertible), Option("SOURCE", "")] | None = Field(
        None, description=SOURCE
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.is_hvm and (self.kernel or self.ramdisk):
            raise ValueError("kernel and ramdisk need virtualization paravirtual")
        if self.virtualization == "paravirtual" and (self.sriov or self.ena or self.boot_mode):
            raise ValueError("sriov, ena and boot_mode need virtualization hvm")
        if not self.registers and (self.ami_name or self.tags or self.copy_tags):
            raise ValueError("ami_name, tags and copy_tags need register_image")
        return self

    @property
    def encrypts(self) -> bool:
        return self.encrypted or self.kms_key_id is not None

    @property
    def is_hvm(self) -> bool:
        return self.virtualization != "paravirtual" and not self.kernel

    @property
    def registers(self) -> bool:
        return self.register_image is not False


class ConvertRequest(ConvertCheckRequest):
    """One volume, directory or bundle to convert to an EBS snapshot and an AMI. Unknown fields are refused."""

    source: Annotated[str, AfterValidator(check_convertible), Option("SOURCE", "")] = Field(description=SOURCE)

    @property
    def destinations(self) -> tuple[str, ...]:
        """None: a snapshot has no address until it is made."""
        return ()
