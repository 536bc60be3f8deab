"""The arguments and options that commands on existing bundles share, and text about their results."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from amistream.cli.request_options import validated
from amistream.errors import UsageError
from amistream.location import S3Location, parse_location

if TYPE_CHECKING:
    from amistream.ports.registry import Registration
    from amistream.request import StoreReach
    from amistream.settings import Settings

Manifest = Annotated[
    str,
    typer.Argument(
        metavar="MANIFEST", help="Address s3://BUCKET/KEY/NAME.manifest.xml, or path of a file.", show_default=False
    ),
]
Bucket = Annotated[str, typer.Argument(metavar="s3://BUCKET[/PREFIX]", show_default=False)]
NoEc2 = Annotated[
    bool,
    typer.Option("--no-ec2", help="Do not ask EC2 for AMIs, where it is missing or reports no AMI's bundle."),
]


def bucket_address(text: str) -> str:
    """Check the address of a folder in a bucket, and return it without slashes at its end. Raises `UsageError`."""
    from amistream.request import CheckRequest, parse_fields

    if not isinstance(parse_location(text), S3Location):
        raise UsageError(
            "usage", f"cannot run the command: {text!r} is no bucket", hint="write s3://BUCKET or s3://BUCKET/PREFIX"
        )
    return parse_fields(CheckRequest, {"destinations": [text]}).destinations[0]


def settings_for(config: Path | None, reach: StoreReach) -> Settings:
    """Load the settings; options of the command come before them."""
    from amistream.settings import load

    return load(config, region=reach.region, endpoint_url=reach.endpoint_url, acl=reach.acl)


def registration_options(context: typer.Context) -> Registration:
    """Make the options of a registration. The manifest supplies what the command leaves out. Raises `UsageError`."""
    from amistream.ports.registry import Registration
    from amistream.request import ImageFields

    params = context.params
    # A request for a kernel is valid only with this virtualization.
    kind = params["virtualization"] or ("paravirtual" if params["kernel"] or params["ramdisk"] else None)
    fields = validated(ImageFields, context, virtualization=kind)
    return Registration(
        name=fields.ami_name or "",
        description=fields.description or "",
        architecture=fields.architecture or "",
        virtualization=fields.virtualization if params["virtualization"] else "",
        kernel=fields.kernel or "",
        ramdisk=fields.ramdisk or "",
        sriov=fields.sriov,
        ena=fields.ena,
        block_device_mappings=fields.block_device_mappings,
        tags=fields.tags,
    )


def path_of(text: str | None) -> Path | None:
    return Path(text) if text else None
