"""The request of a migration: one bundle, copied for use in another region."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from amistream.events import JobKind
from amistream.location import SCHEME
from amistream.request.bundle import StoreReach
from amistream.request.fields import Ec2CertificateField, KernelFields, KeyFields, LabelField, RegistrationFields
from amistream.request.options import DESTINATION, IMAGE, REGISTRATION, Option
from amistream.request.verify import MANIFEST, Manifest
from amistream.request.words import UNSPEAKABLE, check_destination
from amistream.values import manifest_name


def check_bucket(value: str) -> str:
    if not value.startswith(SCHEME):
        raise ValueError("write s3://BUCKET or s3://BUCKET/PREFIX: only a bucket has a region")
    return check_destination(value)


def check_profile(value: str) -> str:
    if UNSPEAKABLE.search(value):
        raise ValueError(f"{value!r} has control characters, or is not UTF-8")
    return value


class CopyFields(StoreReach):
    """Source and destination of the copy."""

    manifest: Manifest = Field(description=MANIFEST)
    destinations: Annotated[
        tuple[Annotated[str, AfterValidator(check_bucket)], ...], Option("s3://BUCKET[/PREFIX]", DESTINATION)
    ] = Field(min_length=1, max_length=1, description="Where the copy goes: one bucket of the region.")
    region: Annotated[str, Option("--region", DESTINATION, "REGION")] = Field(
        pattern=r"^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$",
        description="Region of the target bucket; its EC2 must be able to read the bundle.",
    )
    source_endpoint_url: Annotated[str | None, Option("--source-endpoint-url", DESTINATION, "URL")] = Field(
        None,
        pattern=r"^https?://[^\s/?#]+(/[^\s?#]*)?$",
        description="Endpoint of the source, if it differs; parts then go through the machine of the job.",
    )
    source_profile: Annotated[
        Annotated[str, Field(max_length=255), AfterValidator(check_profile)] | None,
        Option("--source-profile", DESTINATION, "NAME"),
    ] = Field(
        None,
        description="AWS profile to read the source with, such as another partition's. Parts then go through the "
        "machine of the job.",
    )


class MigratedImageFields(RegistrationFields, KernelFields):
    """Boot options and registration of the copy. An absent field takes the manifest's value."""

    no_kernel: Annotated[bool, Option("--no-kernel", IMAGE)] = Field(False, description="Drop the manifest's kernel.")
    no_ramdisk: Annotated[bool, Option("--no-ramdisk", IMAGE)] = Field(
        False, description="Drop the manifest's RAM disk."
    )
    virtualization: Annotated[
        Literal["hvm", "paravirtual"] | None, Option("--virtualization", IMAGE, "hvm|paravirtual")
    ] = Field(None, description="Virtualization type of the AMI; default: that of the manifest.")
    register_image: Annotated[bool, Option("--register/--no-register", REGISTRATION)] = Field(
        False, description="Register the AMI there."
    )
    sriov: Annotated[bool, Option("--sriov", REGISTRATION)] = Field(
        False, description="Enhanced networking with the Intel 82599 VF; hvm only."
    )
    ena: Annotated[bool, Option("--ena", REGISTRATION)] = Field(
        False, description="Enhanced networking with ENA; hvm only."
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        named = self.kernel or self.ramdisk
        if (self.kernel and self.no_kernel) or (self.ramdisk and self.no_ramdisk):
            raise ValueError("a kernel or RAM disk is both named and left out")
        if self.virtualization == "hvm" and named:
            raise ValueError("kernel and ramdisk need virtualization paravirtual")
        if (self.virtualization == "paravirtual" or named) and (self.sriov or self.ena):
            raise ValueError("sriov and ena need virtualization hvm")
        if not self.register_image and (self.ami_name or self.tags or self.description):
            raise ValueError("ami_name, description and tags need register_image")
        return self


# pydantic takes the fields of the last base first.
class MigrateRequest(MigratedImageFields, Ec2CertificateField, KeyFields, CopyFields, LabelField):
    """One bundle to copy for use in another region. Unknown fields are refused."""

    kind: Literal[JobKind.MIGRATE] = Field(description="Work of the job.")

    @property
    def source(self) -> str:
        """The bundle, as jobs are listed."""
        return self.manifest

    @property
    def prefix(self) -> str:
        """The begin of the names of the objects that are made."""
        return self.manifest.rpartition("/")[2].removesuffix(manifest_name(""))
