"""The request of a bundle job, and its fields alone for checks."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, PositiveInt, model_validator

from amistream.events import JobKind
from amistream.location import S3Location, parse_location
from amistream.request.fields import (
    SOURCE,
    BootFields,
    Fields,
    Identity,
    Reach,
    RegistrationFields,
    Source,
    VolumeRequest,
)
from amistream.request.options import DESTINATION, IMAGE, REGISTRATION, SPEED, Option, setting_field
from amistream.request.words import check_destination, check_prefix
from amistream.settings import Acl, PartSize

Destinations = Annotated[
    tuple[Annotated[str, AfterValidator(check_destination)], ...],
    Option("--to", DESTINATION, "s3://BUCKET[/KEY/PREFIX]|DIR"),
]
DESTINATIONS = "Where the bundle goes; may be repeated: one pass serves all, and each region gets its AMI."


class StoreReach(Reach):
    """Region and endpoint of AWS, and the ACL of stored objects."""

    acl: Annotated[Acl | None, Option("--acl", DESTINATION, "aws-exec-read|public-read|private")] = setting_field("acl")


class DestinationFields(Fields):
    """The destinations, and the names of what is stored there."""

    destinations: Destinations = Field((), max_length=8, description=DESTINATIONS)
    all_or_none: Annotated[bool, Option("--all-or-none", DESTINATION)] = Field(
        False, description="Stop when one of several destinations fails; default: continue with the others."
    )
    prefix: Annotated[Annotated[str, AfterValidator(check_prefix)] | None, Option("--prefix", DESTINATION, "NAME")] = (
        setting_field("prefix")
    )


class ImageFields(RegistrationFields, BootFields):
    """Boot options, facts for the manifest, and the registration of a bundle."""

    virtualization: Annotated[Literal["hvm", "paravirtual"], Option("--virtualization", IMAGE, "hvm|paravirtual")] = (
        Field("hvm", description="Virtualization type of the AMI.")
    )
    product_codes: Annotated[
        tuple[Annotated[str, Field(pattern="^[A-Za-z0-9]{1,64}$")], ...], Option("--product-code", IMAGE, "CODE")
    ] = Field((), description="Product code; may be repeated.")
    ancestors: Annotated[
        tuple[Annotated[str, Field(pattern="^ami-[0-9a-f]{8,17}$")], ...], Option("--ancestor", IMAGE, "ami-ID")
    ] = Field((), description="AMI from which this one was made; may be repeated.")
    inherit: Annotated[bool, Option("--inherit/--no-inherit", IMAGE)] = Field(
        False,
        description="Take mapping, kernel, RAM disk, product codes and ancestors from this instance's metadata.",
    )
    sriov: Annotated[bool, Option("--sriov", REGISTRATION)] = Field(
        False, description="Enhanced networking with the Intel 82599 VF; hvm only."
    )
    ena: Annotated[bool, Option("--ena", REGISTRATION)] = Field(
        False, description="Enhanced networking with ENA; hvm only."
    )

    @model_validator(mode="after")
    def _registrable(self) -> Self:
        if self.is_hvm and (self.kernel or self.ramdisk):
            raise ValueError("kernel and ramdisk need virtualization paravirtual")
        if not self.is_hvm and (self.sriov or self.ena):
            raise ValueError("sriov and ena need virtualization hvm")
        if not self.registers and (self.ami_name or self.tags or self.description):
            raise ValueError("ami_name, description and tags need register_image")
        return self

    @property
    def is_hvm(self) -> bool:
        return self.virtualization == "hvm"

    @property
    def registers(self) -> bool:
        return self.register_image is not False


class Speed(Fields):
    """Parts, uploads and compression."""

    part_size: Annotated[PartSize | None, Option("--part-size", SPEED, "SIZE")] = setting_field("part_size")
    upload_concurrency: Annotated[PositiveInt | None, Option("--upload-concurrency", SPEED, "N")] = setting_field(
        "upload_concurrency", le=64
    )
    compress: Annotated[
        Annotated[str, Field(pattern="^(fast|balanced|small|auto|[1-9])$")] | None,
        Option("--compress", SPEED, "fast|balanced|small|auto|1..9"),
    ] = setting_field("compress")


# pydantic takes the fields of the last base first.
class CheckRequest(Speed, ImageFields, Identity, StoreReach, DestinationFields, VolumeRequest):
    """The fields of a bundle job, for checks alone: the volume and the destinations may be left out."""

    kind: Literal[JobKind.BUNDLE] = Field(JobKind.BUNDLE, description="Work of the job.")

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
        return self

    @property
    def outputs(self) -> tuple[str, ...]:
        return self.destinations

    @property
    def registers(self) -> bool:
        if self.register_image is None:
            return any(isinstance(parse_location(each), S3Location) for each in self.destinations[:1])
        return self.register_image


class BundleRequest(CheckRequest):
    """One volume to bundle, where to, and whether and how to register it. Unknown fields are refused."""

    source: Source = Field(description=SOURCE)
    destinations: Destinations = Field(min_length=1, max_length=8, description=DESTINATIONS)
