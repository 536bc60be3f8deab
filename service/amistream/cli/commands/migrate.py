"""The command `migrate`: copies a bundle for another region, in this process or, with --detach, as a daemon's job."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from amistream.cli.job_access import Jobs
from amistream.cli.manifest_arguments import (
    Bucket,
    Manifest,
    bucket_address,
    path_of,
    registration_options,
    settings_for,
)
from amistream.cli.options import ConfigOption, JsonOption, SocketOption
from amistream.cli.output import put_answer
from amistream.cli.request_options import takes, validated
from amistream.cli.showing import NoProgressOption, QuietOption, showing
from amistream.cli.submitting import refuse_label
from amistream.cli.transfer_text import migrated_text
from amistream.errors import UsageError
from amistream.events import JobKind
from amistream.request import DESTINATION, IMAGE, REGISTRATION, Identity, StoreReach
from amistream.request.migrate import MigrateRequest

Region = Annotated[
    str,
    typer.Option(
        "--region",
        rich_help_panel=DESTINATION,
        metavar="REGION",
        help="Region of the target bucket; its EC2 must be able to read the bundle.",
        show_default=False,
    ),
]
SourceEndpointUrl = Annotated[
    str | None,
    typer.Option(
        "--source-endpoint-url",
        rich_help_panel=DESTINATION,
        metavar="URL",
        help="Endpoint of the source, if it differs; parts then go through this machine.",
    ),
]
SourceProfile = Annotated[
    str | None,
    typer.Option(
        "--source-profile",
        rich_help_panel=DESTINATION,
        metavar="NAME",
        help="AWS profile to read the source with, such as another partition's. Parts then go through this machine.",
    ),
]
NoKernel = Annotated[bool, typer.Option("--no-kernel", rich_help_panel=IMAGE, help="Drop the manifest's kernel.")]
NoRamdisk = Annotated[bool, typer.Option("--no-ramdisk", rich_help_panel=IMAGE, help="Drop the manifest's RAM disk.")]
RegisterImage = Annotated[
    bool, typer.Option("--register/--no-register", rich_help_panel=REGISTRATION, help="Register the AMI there.")
]

Detach = Annotated[
    bool, typer.Option("--detach", "--no-wait", help="Have the daemon do it, and print the id of its job only.")
]


@takes(
    *("endpoint_url", "acl", "certificate", "private_key", "ec2_certificate", "architecture", "virtualization"),
    *("kernel", "ramdisk", "block_device_mappings", "ami_name", "description", "sriov", "ena", "tags", "label"),
)
def migrate(
    context: typer.Context,
    manifest: Manifest,
    destination: Bucket,
    *,
    region: Region,
    source_endpoint_url: SourceEndpointUrl = None,
    source_profile: SourceProfile = None,
    no_kernel: NoKernel = False,
    no_ramdisk: NoRamdisk = False,
    register_image: RegisterImage = False,
    detach: Detach = False,
    quiet: QuietOption = False,
    no_progress: NoProgressOption = False,
    socket: SocketOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
    **given: Any,
) -> int:
    """Copy a bundle for use in another region or partition, and with --register make it an AMI there.

    The bundle's key is encrypted for that region's EC2 with the help of your private key, and the manifest is signed
    again. S3 copies the parts itself where it can. A migration that fails leaves nothing there; the source never
    changes. With --detach the daemon does it as a job, which can be followed, cancelled and resumed.

    Example: [bold]amistream migrate s3://my-bucket/web/image.manifest.xml s3://my-us-bucket/web --region us-west-2
    --cert cert.pem --private-key pk.pem --register --ami-name web-1[/bold]

    Example: [bold]AWS_PROFILE=gov amistream migrate s3://my-bucket/web/image.manifest.xml s3://my-gov-bucket/web
    --region us-gov-west-1 --source-profile default --cert cert.pem --private-key pk.pem[/bold]
    """
    shown = showing(quiet=quiet, no_progress=no_progress, as_json=as_json)
    from amistream.bundles.migrate import MigrationRequest
    from amistream.cli.foreground import run_here

    if (given["kernel"] and no_kernel) or (given["ramdisk"] and no_ramdisk):
        raise UsageError("usage", "cannot run the command: a kernel or RAM disk is both named and left out")
    if detach:
        asked = validated(MigrateRequest, context, kind=JobKind.MIGRATE, destinations=[destination])
        return Jobs(socket, config, in_process=False, detach=True, shown=shown).submit(asked)
    refuse_label(given)
    address, reach, identity = bucket_address(destination), validated(StoreReach, context), validated(Identity, context)
    registration = registration_options(context)
    request = MigrationRequest(
        region=region,
        certificate=path_of(identity.certificate),
        private_key=path_of(identity.private_key),
        ec2_certificate=path_of(identity.ec2_certificate),
        kernel="" if no_kernel else given["kernel"],
        ramdisk="" if no_ramdisk else given["ramdisk"],
        source_endpoint_url=source_endpoint_url or "",
        source_profile=source_profile or "",
        registration=registration if register_image else None,
    )
    done = run_here(
        settings_for(config, reach),
        lambda session, meter: session.migrate(manifest, address, meter, request),
        "copying",
        shown,
    )
    return put_answer(done, migrated_text, as_json=as_json)
