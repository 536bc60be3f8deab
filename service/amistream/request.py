"""The request of a client, in small models: the body of `POST /v1/jobs`, which `amistream bundle` sends.

Values are validated here as far as possible without disk, keys and AWS; `checks` does the rest, and
`jobs/confinement.py` bounds what members of the socket's group may ask for. An absent field (None) takes the daemon's
setting of the same name.
"""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self, TypeVar, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ByteSize,
    ConfigDict,
    Field,
    PositiveInt,
    ValidationError,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from amistream.errors import UsageError
from amistream.events import JobKind
from amistream.location import SCHEME, DirectoryLocation, S3Location, parse_location
from amistream.settings import Acl, PartSize, Settings, Sparse, in_words
from amistream.values import KIB, LONGEST_PREFIX, STANDARD_INPUT, is_prefix

LONGEST_KEY_PREFIX = 900
"""Bytes: a key has at most 1024, and a part's name up to 109."""
AMI_NAME_PATTERN = r"^[A-Za-z0-9()\[\] ./'@_-]{3,128}$"
PREFIX_WORDS = (
    f"a name of up to {LONGEST_PREFIX} bytes: printable characters but a slash, no space at its ends, and no dash or "
    "dot in front"
)
PATTERN_WORDS = {
    "region": "a region's name, such as eu-west-1, or RegionOne at an endpoint of your own",
    "endpoint_url": "a URL of the form http://HOST:PORT or https://HOST, or one with a path",
    "ami_name": "an AMI name: 3 to 128 of letters, digits, spaces and ( ) [ ] . / - ' @ _",
    "kernel": "a kernel id, such as aki-12345678",
    "ramdisk": "a ramdisk id, such as ari-12345678",
    "product_codes": "a product code: up to 64 letters and digits",
    "ancestors": "an AMI id, such as ami-12345678",
    "compress": "fast, balanced, small, auto, or a level from 1 to 9",
}
"""The form of each field with a pattern, for messages. A test keeps the list complete."""

DEVICE_PATTERN = re.compile(r"(/dev/)?(sd|hd)[a-z][0-9]{0,2}")
VIRTUAL_PATTERN = re.compile(r"ami|root|swap|ephemeral([0-9]|1[0-9]|2[0-3])")
BUCKET_PATTERN = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
UNSPEAKABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
"""Characters not allowed in paths: those that control a terminal, and lone surrogates, which JSON cannot hold."""


def _check_destination(value: str) -> str:
    location = parse_location(value)
    match location:
        case S3Location(bucket, key_prefix):
            if not BUCKET_PATTERN.fullmatch(bucket):
                raise ValueError(f"{bucket!r} is not a bucket name; write s3://BUCKET or s3://BUCKET/KEY/PREFIX")
            steps = value.removeprefix(SCHEME).rstrip("/").split("/")
            if not key_prefix.isprintable() or {"", ".", ".."} & set(steps):
                raise ValueError("a key prefix holds printable characters, and no empty step (//), . or ..")
            if len(key_prefix.encode()) > LONGEST_KEY_PREFIX:
                raise ValueError(f"a key prefix has at most {LONGEST_KEY_PREFIX} bytes")
            return str(location)
        case DirectoryLocation():
            if not value.startswith("/"):
                raise ValueError("write s3://BUCKET[/KEY/PREFIX] or an absolute directory")
            return posixpath.normpath(_check_absolute(value))


def _check_absolute(value: str) -> str:
    if not value.startswith("/"):
        raise ValueError("write an absolute path")
    if UNSPEAKABLE.search(value):
        raise ValueError(f"{value!r} has control characters, or is not UTF-8; give the file another name")
    return value


def _check_account(value: str) -> str:
    """Accept the ids of any cloud: the checks know whether it is AWS."""
    digits = value.replace("-", "")
    if re.fullmatch("[0-9]{12}", digits):
        return digits
    if not re.fullmatch("[!-~]{1,64}", value):
        raise ValueError("an account id has up to 64 characters without spaces; that of AWS has 12 digits")
    return value


def _check_prefix(value: str) -> str:
    if not is_prefix(value):
        raise ValueError(f"{value!r} is not {PREFIX_WORDS}")
    return value


def _check_mappings(value: dict[str, str]) -> dict[str, str]:
    for virtual, device in value.items():
        if not VIRTUAL_PATTERN.fullmatch(virtual):
            raise ValueError(f"{virtual!r} is not a virtual name; use ami, root, swap or ephemeral0 to ephemeral23")
        if not DEVICE_PATTERN.fullmatch(device):
            raise ValueError(
                f"{device!r} is not a device name that EC2 takes in a manifest; use sdb or sda1 "
                "(xvdb is called sdb there)"
            )
    return value


FSTAB_WORDS = ("keep", "generate")
"""The values of `fstab` that are no file."""

DESTINATION = "Destination"
IDENTITY = "Identity"
IMAGE = "Image"
REGISTRATION = "Registration"
SPEED = "Speed"
TREE = "Directory"

AbsolutePath = Annotated[str, AfterValidator(_check_absolute)]


def _check_source(value: str) -> str:
    return value if value == STANDARD_INPUT else _check_absolute(value)


def _check_fstab(value: str) -> str:
    return value if value in FSTAB_WORDS else _check_absolute(value)


def _check_pattern(value: str) -> str:
    if not value.strip("/"):
        raise ValueError(f"{value!r} names nothing; write a pattern as for rsync, such as /var/cache/* or *.log")
    if re.search("[\0\ud800-\udfff]", value):
        raise ValueError(f"{value!r} has a zero byte, or is not UTF-8; write ? for each byte of a name that is not")
    return value


Category = Literal["secrets", "history", "identity", "logs", "caches"]


def _split_categories(value: object) -> object:
    """Categories in one text or several; `none` is the empty list, `all` all of them."""
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list | tuple) or not all(isinstance(each, str) for each in texts):
        return value
    names = [name.strip() for text in texts for name in text.split(",")]
    known = get_args(Category)
    if names in (["none"], ["all"]):
        return known if names == ["all"] else ()
    for name in names:
        if name not in known:
            raise ValueError(f"{name!r} is none of {', '.join(known)}; or write all or none, alone")
    return tuple(dict.fromkeys(names))


@dataclass(frozen=True, slots=True)
class Option:
    """Names a field on the command line: its options, their panel in --help, and a placeholder of the value.

    A flag has no placeholder. The variable AMISTREAM_FIELD stands for a field that is a setting too; `variables` are
    those of the EC2 tools.
    """

    names: str
    panel: str
    metavar: str = ""
    variables: tuple[str, ...] = ()


def option_of(field: FieldInfo) -> Option:
    return next(each for each in field.metadata if isinstance(each, Option))


def _setting(name: str, **bounds: Any) -> Any:
    """A field that takes the place of the setting of the same name, and has the first sentence of its description."""
    about = re.split(r"(?<=\.) (?=[A-Z0-9\"])", Settings.model_fields[name].description or "", maxsplit=1)[0]
    return Field(None, description=about, **bounds)


Source = Annotated[str, AfterValidator(_check_source), Option("SOURCE", "")]
Destinations = Annotated[
    tuple[Annotated[str, AfterValidator(_check_destination)], ...],
    Option("--to", DESTINATION, "s3://BUCKET[/KEY/PREFIX]|DIR"),
]
_SOURCE = (
    "Directory, such as /, block device, or image file: raw, qcow2, VMDK, VHD, VHDX, VDI, QED, Parallels; - is "
    "standard input, with --in-process only."
)
_DESTINATIONS = "Where the bundle goes; may be repeated: one pass serves all, and each region gets its AMI."


class _Request(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Reach(_Request):
    """Region and endpoint of AWS, and the ACL of stored objects."""

    region: Annotated[str | None, Option("--region", DESTINATION, "REGION")] = _setting(
        "region", pattern=r"^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$"
    )
    endpoint_url: Annotated[str | None, Option("--endpoint-url", DESTINATION, "URL")] = _setting(
        "endpoint_url", pattern=r"^https?://[^\s/?#]+(/[^\s?#]*)?$"
    )
    acl: Annotated[Acl | None, Option("--acl", DESTINATION, "aws-exec-read|public-read|private")] = _setting("acl")


class Identity(_Request):
    """The owner of a bundle, and the certificates for which its key is encrypted."""

    account: Annotated[
        Annotated[str, AfterValidator(_check_account)] | None,
        Option("--account", IDENTITY, "123456789012", ("EC2_ACCOUNT_ID", "AWS_ACCOUNT_ID")),
    ] = _setting("account")
    certificate: Annotated[AbsolutePath | None, Option("--cert", IDENTITY, "FILE", ("EC2_CERT",))] = _setting(
        "certificate"
    )
    private_key: Annotated[AbsolutePath | None, Option("--private-key", IDENTITY, "FILE", ("EC2_PRIVATE_KEY",))] = (
        _setting("private_key")
    )
    ec2_certificate: Annotated[AbsolutePath | None, Option("--ec2-cert", IDENTITY, "FILE")] = Field(
        None, description="EC2's X.509 certificate, PEM; if not given, the one of the region."
    )


class ImageFields(_Request):
    """Boot options of the image, and further facts for its manifest."""

    architecture: Annotated[Literal["i386", "x86_64", "arm64"] | None, Option("--arch", IMAGE, "i386|x86_64|arm64")] = (
        _setting("architecture")
    )
    virtualization: Annotated[Literal["hvm", "paravirtual"], Option("--virtualization", IMAGE, "hvm|paravirtual")] = (
        Field("hvm", description="Virtualization type of the AMI.")
    )
    kernel: Annotated[str | None, Option("-k --kernel", IMAGE, "aki-ID")] = Field(
        None, pattern="^[ae]ki-[0-9a-fA-F]{8,17}$", description="Kernel of a paravirtual AMI."
    )
    ramdisk: Annotated[str | None, Option("-r --ramdisk", IMAGE, "ari-ID")] = Field(
        None, pattern="^[ae]ri-[0-9a-fA-F]{8,17}$", description="RAM disk of a paravirtual AMI."
    )
    block_device_mappings: Annotated[
        dict[str, str],
        AfterValidator(_check_mappings),
        Option("-B --block-device-mapping", IMAGE, "VIRTUAL=DEVICE,..."),
    ] = Field(
        default_factory=dict,
        description="Virtual name and device, such as ephemeral0=sdb,root=/dev/sda1; may be repeated.",
    )
    product_codes: Annotated[
        tuple[Annotated[str, Field(pattern="^[A-Za-z0-9]{1,64}$")], ...], Option("--product-code", IMAGE, "CODE")
    ] = Field((), description="Product code; may be repeated.")
    ancestors: Annotated[
        tuple[Annotated[str, Field(pattern="^ami-[0-9a-f]{8,17}$")], ...], Option("--ancestor", IMAGE, "ami-ID")
    ] = Field((), description="AMI from which this one was made; may be repeated.")
    strict: Annotated[bool, Option("--strict", IMAGE)] = Field(
        False, description="Refuse the job if the AMI will not boot; default: bundle it, with notices."
    )
    inherit: Annotated[bool, Option("--inherit/--no-inherit", IMAGE)] = Field(
        False,
        description="Take mapping, kernel, RAM disk, product codes and ancestors from this instance's metadata.",
    )

    @model_validator(mode="after")
    def _boots(self) -> Self:
        if self.virtualization == "hvm" and (self.kernel or self.ramdisk):
            raise ValueError("kernel and ramdisk need virtualization paravirtual")
        return self


class RegistrationFields(ImageFields):
    """Registration of the AMI in EC2."""

    register_image: Annotated[bool | None, Option("--register/--no-register", REGISTRATION)] = Field(
        None, description="Register the AMI; default: yes for S3, no for a directory."
    )
    ami_name: Annotated[str | None, Option("--ami-name", REGISTRATION, "NAME")] = Field(
        None, pattern=AMI_NAME_PATTERN, description="Name of the AMI; default: the prefix, the time and a random token."
    )
    description: Annotated[str | None, Option("--description", REGISTRATION, "TEXT")] = Field(
        None, max_length=255, description="Description of the AMI."
    )
    sriov: Annotated[bool, Option("--sriov", REGISTRATION)] = Field(
        False, description="Enhanced networking with the Intel 82599 VF; hvm only."
    )
    ena: Annotated[bool, Option("--ena", REGISTRATION)] = Field(
        False, description="Enhanced networking with ENA; hvm only."
    )
    tags: Annotated[
        dict[Annotated[str, Field(min_length=1, max_length=128)], Annotated[str, Field(max_length=256)]],
        Option("--tag", REGISTRATION, "KEY=VALUE"),
    ] = Field(default_factory=dict, max_length=50, description="Tag of the AMI; may be repeated.")

    @model_validator(mode="after")
    def _registrable(self) -> Self:
        if self.virtualization == "paravirtual" and (self.sriov or self.ena):
            raise ValueError("sriov and ena need virtualization hvm")
        if not self.registers and (self.ami_name or self.tags or self.description):
            raise ValueError("ami_name, description and tags need register_image")
        return self

    @property
    def registers(self) -> bool:
        return self.register_image is not False


class Speed(_Request):
    """Use of the machine and of the link by a job."""

    part_size: Annotated[PartSize | None, Option("--part-size", SPEED, "SIZE")] = _setting("part_size")
    upload_concurrency: Annotated[PositiveInt | None, Option("--upload-concurrency", SPEED, "N")] = _setting(
        "upload_concurrency", le=64
    )
    compress: Annotated[
        Annotated[str, Field(pattern="^(fast|balanced|small|auto|[1-9])$")] | None,
        Option("--compress", SPEED, "fast|balanced|small|auto|1..9"),
    ] = _setting("compress")
    workers: Annotated[PositiveInt | None, Option("--workers", SPEED, "N")] = _setting("workers", le=256)
    sparse: Annotated[Sparse | None, Option("--sparse", SPEED, "auto|always|never")] = _setting("sparse")
    limit_upload: Annotated[ByteSize | None, Option("--limit-upload", SPEED, "RATE")] = _setting(
        "limit_upload", ge=16 * KIB
    )
    memory_limit: Annotated[ByteSize | None, Option("--memory-limit", SPEED, "SIZE")] = _setting("memory_limit")
    nice: Annotated[int | None, Option("--nice", SPEED, "0..19")] = _setting("nice", ge=0, le=19)


class Subject(_Request):
    """The volume and the destinations, as far as they are given."""

    source: Source | None = Field(None, description=_SOURCE)
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
        description="Boot area of a directory, or of a bare ext2, ext3 or ext4 file system. clone: that of the "
        "directory's own disk; mbr, gpt: a new table, and this machine's GRUB; auto: for a directory the first of "
        "clone, mbr and none that works, for others none.",
    )
    live: Annotated[bool, Option("--live", "")] = Field(
        False, description="Bundle SOURCE even though it is mounted read-write; safe only while nothing writes to it."
    )
    freeze: Annotated[bool, Option("--freeze", "")] = Field(
        False,
        description="Freeze the file systems of SOURCE that are mounted read-write until all is read: writers wait, "
        "and the image is consistent. Not for those of the system.",
    )
    destinations: Destinations = Field((), max_length=8, description=_DESTINATIONS)
    all_or_none: Annotated[bool, Option("--all-or-none", DESTINATION)] = Field(
        False, description="Stop when one of several destinations fails; default: continue with the others."
    )
    prefix: Annotated[Annotated[str, AfterValidator(_check_prefix)] | None, Option("--prefix", DESTINATION, "NAME")] = (
        _setting("prefix")
    )


Patterns = tuple[Annotated[str, AfterValidator(_check_pattern), Field(max_length=4096)], ...]


class TreeFields(_Request):
    """Of a SOURCE that is a directory: the file system made of it, and what comes in."""

    size: Annotated[ByteSize | None, Option("--size", TREE, "SIZE")] = Field(
        None, gt=0, description="Size of the image; default: that of the directory's disk, at most `max_image_size`."
    )
    file_system: Annotated[
        Literal["ext4", "ext3", "ext3-128", "ext2", "ext4-csum"] | None,
        Option("--fs", TREE, "ext4|ext3|ext3-128|ext2|ext4-csum"),
    ] = Field(
        None, description="File system of the image; default: ext4, or that of the directory if it is ext2 or ext3."
    )
    exclude: Annotated[Patterns, Option("--exclude", TREE, "PATTERN")] = Field(
        (), max_length=1000, description="Leave out what matches, as rsync does; may be repeated."
    )
    include: Annotated[Patterns, Option("--include", TREE, "PATTERN")] = Field(
        (), max_length=1000, description="Take in what matches, whatever leaves it out; may be repeated."
    )
    clean: Annotated[
        tuple[Category, ...],
        BeforeValidator(_split_categories),
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
    fstab: Annotated[str, AfterValidator(_check_fstab), Option("--fstab", TREE, "keep|generate|FILE")] = Field(
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
class CheckRequest(Speed, RegistrationFields, Identity, Reach, TreeFields, Subject):
    """The fields of a job, for checks alone: the volume and the destinations may be left out."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        kinds = {type(parse_location(destination)) for destination in self.destinations}
        if len(kinds) > 1:
            raise ValueError("destinations: give buckets, or directories, but not both")
        if self.registers and kinds != {S3Location}:
            raise ValueError("EC2 registers from S3 only; leave register_image out for a directory")
        if len(set(self.destinations)) < len(self.destinations):
            raise ValueError("destinations: one is given twice")
        if len(self.destinations) > 1 and self.region and kinds == {S3Location}:
            raise ValueError("region: each of several buckets has its own; leave it out")
        if self.partition in ("clone", "mbr", "gpt") and self.virtualization != "hvm":
            raise ValueError("a boot area (partition) needs virtualization hvm")
        if self.partition in ("mbr", "gpt") and self.architecture == "arm64":
            raise ValueError("partition mbr or gpt needs an architecture with a BIOS: i386 or x86_64")
        if self.freeze and self.live:
            raise ValueError("freeze: leave live out: nothing is written while it is frozen")
        return self

    @property
    def registers(self) -> bool:
        if self.register_image is None:
            return any(isinstance(parse_location(each), S3Location) for each in self.destinations[:1])
        return self.register_image


class JobRequest(CheckRequest):
    """One volume to bundle, where to, and whether and how to register it. Unknown fields are refused."""

    kind: Literal[JobKind.BUNDLE] = Field(JobKind.BUNDLE, description="Work of the job.")
    source: Source = Field(description=_SOURCE)
    destinations: Destinations = Field(min_length=1, max_length=8, description=_DESTINATIONS)


_Model = TypeVar("_Model", bound=BaseModel)


def parse_request(values: dict[str, Any]) -> JobRequest:
    """Make the request for a job. Raises `UsageError` that names the fields at fault."""
    return parse_fields(JobRequest, values)


def parse_fields(model: type[_Model], values: dict[str, Any]) -> _Model:
    """Make a request, or a part of one. Raises `UsageError` that names the fields at fault."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        faults = error.errors(include_url=False, include_context=False)
        # A misspelt field may be the reason why another is missing.
        faults.sort(key=lambda fault: fault["type"] != "extra_forbidden")
        reasons: dict[str, str] = {}
        for fault in faults:
            reasons.setdefault(str(fault["loc"][0]) if fault["loc"] else "", _reason(fault))
        (field, first), *others = reasons.items()
        unknown = faults[0]["type"] == "extra_forbidden"
        hint = (
            "GET /v1/openapi.json lists the fields; check the spelling"
            if unknown
            else "`amistream bundle --help` and GET /v1/openapi.json say what each field takes"
        )
        raise UsageError(
            "request.unknown_field" if unknown else "request.invalid",
            f"cannot take the request: {first}",
            hint="\n".join([hint, *(f"also: {reason}" for _, reason in others)]),
            field=field,
        ) from None


def _reason(fault: ErrorDetails) -> str:
    field = str(fault["loc"][0]) if fault["loc"] else ""
    if fault["type"] == "extra_forbidden":
        return f"there is no field {field!r}"
    pattern = fault["type"] == "string_pattern_mismatch"
    reason = f"{fault['input']!r} is not {PATTERN_WORDS[field]}" if pattern else in_words(fault)
    return f"{field}: {reason}" if field else reason
