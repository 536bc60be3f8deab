"""The command `migrate`: the same bundle for another region's EC2."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from amistream.cli import bundle_options as options
from amistream.cli.bundle_arguments import Bucket, Manifest, settings_for, transferred_facts, validated_request, wish_of
from amistream.cli.options import ConfigOption, JsonOption
from amistream.cli.output import put_result
from amistream.cli.table import columns
from amistream.errors import EXIT_DONE, UsageError

if TYPE_CHECKING:
    from amistream.bundles.results import Migrated
    from amistream.bundles.session import BundleSession

Region = Annotated[
    str,
    typer.Option(
        "--region",
        rich_help_panel=options.DESTINATION,
        metavar="REGION",
        help="Region of the bucket to copy to, whose EC2 is to read the bundle.",
        show_default=False,
    ),
]
SourceEndpointUrl = Annotated[
    str | None,
    typer.Option(
        "--source-endpoint-url",
        rich_help_panel=options.DESTINATION,
        metavar="URL",
        help="Endpoint of the source, where it is another one; parts then go through this machine.",
    ),
]
SourceProfile = Annotated[
    str | None,
    typer.Option(
        "--source-profile",
        rich_help_panel=options.DESTINATION,
        metavar="NAME",
        help="AWS profile to read the source with: of another partition's account. Parts then go through this machine.",
    ),
]
NoKernel = Annotated[
    bool, typer.Option("--no-kernel", rich_help_panel=options.IMAGE, help="Leave the manifest's kernel out.")
]
NoRamdisk = Annotated[
    bool, typer.Option("--no-ramdisk", rich_help_panel=options.IMAGE, help="Leave the manifest's RAM disk out.")
]
RegisterImage = Annotated[
    bool,
    typer.Option("--register/--no-register", rich_help_panel=options.REGISTRATION, help="Register the AMI there."),
]


def migrate(
    context: typer.Context,
    manifest: Manifest,
    destination: Bucket,
    *,
    region: Region,
    endpoint_url: options.EndpointUrl = None,
    source_endpoint_url: SourceEndpointUrl = None,
    source_profile: SourceProfile = None,
    acl: options.Acl = None,
    certificate: options.Certificate = None,
    private_key: options.PrivateKey = None,
    ec2_certificate: options.Ec2Certificate = None,
    architecture: options.Architecture = None,
    virtualization: options.Virtualization = None,
    kernel: options.Kernel = None,
    no_kernel: NoKernel = False,
    ramdisk: options.Ramdisk = None,
    no_ramdisk: NoRamdisk = False,
    block_device_mappings: options.BlockDeviceMappings = None,
    register_image: RegisterImage = False,
    ami_name: options.AmiName = None,
    description: options.Description = None,
    sriov: options.Sriov = None,
    ena: options.Ena = None,
    tags: options.Tags = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> int:
    """Copy a bundle for use in another region or partition, and with --register make it an AMI there.

    Its key is wrapped for that region's EC2, with the help of your private key, and the manifest is signed anew. S3
    copies the parts by itself where it may. When it fails, nothing is left there; the source is never changed.

    Example: [bold]amistream migrate s3://my-bucket/web/image.manifest.xml s3://my-us-bucket/web --region us-west-2
    --cert cert.pem --private-key pk.pem --register --ami-name web-1[/bold]

    Example: [bold]AWS_PROFILE=gov amistream migrate s3://my-bucket/web/image.manifest.xml s3://my-gov-bucket/web
    --region us-gov-west-1 --source-profile default --cert cert.pem --private-key pk.pem[/bold]
    """
    from amistream.bundles.meter import Meter
    from amistream.cli.foreground import progress_bar, run_here

    if (kernel and no_kernel) or (ramdisk and no_ramdisk):
        raise UsageError("usage", "cannot run the command: a kernel or RAM disk is both named and left out")
    kind = virtualization or ("paravirtual" if kernel or ramdisk else None)
    request, meter = validated_request(context, destination, virtualization=kind), Meter()
    wish = wish_of(context, request) if register_image else None

    async def work(session: BundleSession) -> Migrated:
        async with progress_bar(meter, "copying"):
            return await session.migrate(
                manifest,
                request.destinations[0],
                meter,
                region=region,
                certificate=_path(request.certificate),
                private_key=_path(request.private_key),
                ec2_certificate=_path(request.ec2_certificate),
                kernel=request.kernel,
                ramdisk=request.ramdisk,
                drop_kernel=no_kernel,
                drop_ramdisk=no_ramdisk,
                source_endpoint_url=source_endpoint_url or "",
                source_profile=source_profile or "",
                wish=wish,
            )

    done = run_here(settings_for(config, request), work)
    put_result(done.model_dump_json() if as_json else migrated_text(done))
    return EXIT_DONE


def migrated_text(done: Migrated) -> str:
    facts = transferred_facts(done)
    facts.append(("copied", f"{done.copied} by S3, {done.parts - done.copied - done.kept} through this machine"))
    facts += [
        (what, identifier) for what, identifier in (("kernel", done.kernel), ("ramdisk", done.ramdisk)) if identifier
    ]
    facts.append(("region", done.region))
    if done.image is not None:
        facts += [("AMI", done.image.image_id), ("name", done.image.image_name)]
    return columns(facts)


def _path(text: str | None) -> Path | None:
    return Path(text) if text else None
