"""What a client may ask for: the body of `POST /v1/jobs`, and what `amistream bundle` sends.

Everything that can be judged from the words alone is judged here; what needs the disk, keys or AWS is judged by
`preflight`. A field that is absent (None) takes the daemon's setting of the same name.
"""

from __future__ import annotations

import posixpath
import re
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ByteSize,
    ConfigDict,
    Field,
    PositiveInt,
    ValidationError,
    model_validator,
)

from amistream.errors import UsageError
from amistream.location import DirectoryLocation, S3Location, parse_location
from amistream.settings import Acl, PartSize, Sparse, in_words
from amistream.values import KIB, STANDARD_INPUT

PREFIX_PATTERN = r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,79}$"
KEY_PREFIX_PATTERN = re.compile(r"[A-Za-z0-9!_.*'()/-]*")
AMI_NAME_PATTERN = r"^[A-Za-z0-9()\[\] ./'@_-]{3,128}$"
PATTERN_WORDS = {
    "prefix": "a name of up to 80 letters, digits, dots, dashes and underscores that begins with a letter or digit",
    "region": "a region's name, such as eu-west-1",
    "endpoint_url": "a URL of the form http://HOST:PORT or https://HOST",
    "ami_name": "an AMI name: 3 to 128 of letters, digits, spaces and ( ) [ ] . / - ' @ _",
    "kernel": "a kernel id, such as aki-12345678",
    "ramdisk": "a ramdisk id, such as ari-12345678",
    "product_codes": "a product code: up to 64 letters and digits",
    "ancestors": "an AMI id, such as ami-12345678",
    "compress": "fast, balanced, small, auto, or a level from 1 to 9",
}
"""What each field with a pattern wants, for people. A test keeps it complete."""

DEVICE_PATTERN = re.compile(r"(/dev/)?(sd|hd)[a-z][0-9]{0,2}")
VIRTUAL_PATTERN = re.compile(r"ami|root|swap|ephemeral([0-9]|1[0-9]|2[0-3])")
BUCKET_PATTERN = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
UNSPEAKABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
"""What no path may hold: characters that steer a terminal, and halves of characters, which JSON cannot hold."""


def _check_destination(value: str) -> str:
    location = parse_location(value)
    if isinstance(location, S3Location):
        if not BUCKET_PATTERN.fullmatch(location.bucket):
            raise ValueError(f"{location.bucket!r} is not a bucket name; write s3://BUCKET or s3://BUCKET/KEY/PREFIX")
        if not KEY_PREFIX_PATTERN.fullmatch(location.key_prefix) or "//" in value.removeprefix("s3:/"):
            raise ValueError("a key prefix holds letters, digits and !_.*'()/- only, and no empty step (//)")
        return str(location)
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
    digits = value.replace("-", "")
    if not re.fullmatch("[0-9]{12}", digits):
        raise ValueError("an AWS account id has 12 digits, with or without dashes")
    return digits


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


AbsolutePath = Annotated[str, AfterValidator(_check_absolute)]


def _check_source(value: str) -> str:
    return value if value == STANDARD_INPUT else _check_absolute(value)


class JobRequest(BaseModel):
    """One volume to bundle, where to, and whether and how to register it. Unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: Annotated[str, AfterValidator(_check_source)] = Field(
        description="image file, block device, or - for standard input (of a process of its own: the daemon has none)"
    )
    image_size: ByteSize | None = Field(None, gt=0, description="exact size of a source that does not tell it")
    destinations: tuple[Annotated[str, AfterValidator(_check_destination)], ...] = Field(
        min_length=1, max_length=8, description="s3://bucket[/key/prefix], or absolute directories; one pass serves all"
    )
    all_or_none: bool = Field(False, description="of several destinations: the first that fails stops the job")
    prefix: str | None = Field(None, pattern=PREFIX_PATTERN, description="start of every object name")
    architecture: Literal["i386", "x86_64", "arm64"] | None = None
    account: Annotated[str, AfterValidator(_check_account)] | None = Field(None, description="12 digits")
    certificate: AbsolutePath | None = Field(None, description="user's X.509 certificate, PEM")
    private_key: AbsolutePath | None = Field(None, description="user's RSA private key, PEM")
    ec2_certificate: AbsolutePath | None = Field(None, description="EC2's X.509 certificate, PEM")
    region: str | None = Field(None, pattern=r"^[a-z]{2,5}(-[a-z]+)+-[0-9]+$")
    endpoint_url: str | None = Field(None, pattern=r"^https?://[^\s/]+/?$", description="S3, EC2 and STS endpoint")
    acl: Acl | None = None

    register_image: bool | None = Field(None, description="register the AMI; default: yes for S3, no for a directory")
    ami_name: str | None = Field(None, pattern=AMI_NAME_PATTERN, description="default: PREFIX and the time")
    description: str | None = Field(None, max_length=255)
    virtualization: Literal["hvm", "paravirtual"] = "hvm"
    kernel: str | None = Field(None, pattern="^[ae]ki-[0-9a-fA-F]{8,17}$")
    ramdisk: str | None = Field(None, pattern="^[ae]ri-[0-9a-fA-F]{8,17}$")
    sriov: bool = Field(False, description="enhanced networking with the Intel 82599 interface")
    ena: bool = Field(False, description="enhanced networking with ENA")
    block_device_mappings: Annotated[dict[str, str], AfterValidator(_check_mappings)] = Field(
        default_factory=dict, description="virtual name to device, as {'ephemeral0': 'sdb'}"
    )
    product_codes: tuple[Annotated[str, Field(pattern="^[A-Za-z0-9]{1,64}$")], ...] = ()
    ancestors: tuple[Annotated[str, Field(pattern="^ami-[0-9a-f]{8,17}$")], ...] = ()
    tags: dict[Annotated[str, Field(min_length=1, max_length=128)], Annotated[str, Field(max_length=256)]] = Field(
        default_factory=dict, max_length=50
    )
    live: bool = Field(False, description="bundle a volume that is mounted read-write; it is frozen, or may be torn")
    inherit: bool = Field(
        False,
        description="take mapping, kernel, ramdisk, product codes and ancestors from this instance's metadata",
    )

    part_size: PartSize | None = Field(None, description="bytes, or text like 10MiB")
    upload_concurrency: PositiveInt | None = Field(None, le=64)
    compress: Annotated[str, Field(pattern="^(fast|balanced|small|auto|[1-9])$")] | None = None
    workers: PositiveInt | None = Field(None, le=256)
    nice: int | None = Field(None, ge=0, le=19, description="19 yields the most to other work on this machine")
    memory_limit: ByteSize | None = Field(None, description="bytes of the process's memory, or text like 256MiB")
    limit_upload: ByteSize | None = Field(None, ge=16 * KIB, description="bytes per second to S3, or text like 20MiB")
    sparse: Sparse | None = Field(None, description="leave holes of the volume out: auto, always or never")

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.virtualization == "paravirtual" and (self.sriov or self.ena):
            raise ValueError("sriov and ena need virtualization hvm")
        if self.virtualization == "hvm" and (self.kernel or self.ramdisk):
            raise ValueError("kernel and ramdisk need virtualization paravirtual")
        locations = [parse_location(destination) for destination in self.destinations]
        if self.registers and isinstance(locations[0], DirectoryLocation):
            raise ValueError("EC2 registers from S3 only; leave register_image out for a directory")
        if len(set(map(type, locations))) > 1:
            raise ValueError("destinations: give buckets, or directories, but not both")
        if len(set(self.destinations)) < len(self.destinations):
            raise ValueError("destinations: one is given twice")
        if len(self.destinations) > 1 and self.region and isinstance(locations[0], S3Location):
            raise ValueError("region: each of several buckets has its own; leave it out")
        if not self.registers and (self.ami_name or self.tags or self.description):
            raise ValueError("ami_name, description and tags need register_image")
        return self

    @property
    def registers(self) -> bool:
        if self.register_image is None:
            return isinstance(parse_location(self.destinations[0]), S3Location)
        return self.register_image


def parse_request(values: dict[str, Any]) -> JobRequest:
    """Make a request, or raise `UsageError` that names the first field at fault in a person's words."""
    try:
        return JobRequest.model_validate(values)
    except ValidationError as error:
        faults = error.errors(include_url=False, include_context=False)
        # A misspelt field may be the reason why another is missing.
        first = min(faults, key=lambda fault: fault["type"] != "extra_forbidden")
        field = str(first["loc"][0]) if first["loc"] else ""
        reason = in_words(first)
        if first["type"] == "string_pattern_mismatch":
            reason = f"{first['input']!r} is not {PATTERN_WORDS[field]}"
        if first["type"] == "extra_forbidden":
            raise UsageError(
                "request.unknown_field",
                f"cannot take the request: there is no field {field!r}",
                hint="GET /v1/openapi.json lists the fields; check the spelling",
                field=field,
            ) from None
        raise UsageError(
            "request.invalid",
            f"cannot take the request: {field + ': ' if field else ''}{reason}",
            hint="`amistream bundle --help` and GET /v1/openapi.json say what each field takes",
            field=field,
        ) from None
