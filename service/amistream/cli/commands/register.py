"""`amistream register`: makes an AMI of a bundle that exists."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from amistream.cli import bundle_options as options
from amistream.cli.bundle_arguments import Manifest, settings_for, validated_request, wish_of
from amistream.cli.options import ConfigOption, JsonOption
from amistream.cli.output import put_result
from amistream.cli.table import columns
from amistream.errors import EXIT_DONE

if TYPE_CHECKING:
    from amistream.bundles.results import Registered
    from amistream.bundles.session import BundleSession


def register(
    context: typer.Context,
    manifest: Manifest,
    *,
    region: options.Region = None,
    endpoint_url: options.EndpointUrl = None,
    architecture: options.Architecture = None,
    virtualization: options.Virtualization = None,
    kernel: options.Kernel = None,
    ramdisk: options.Ramdisk = None,
    block_device_mappings: options.BlockDeviceMappings = None,
    ami_name: options.AmiName = None,
    description: options.Description = None,
    sriov: options.Sriov = None,
    ena: options.Ena = None,
    tags: options.Tags = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> int:
    """Register a bundle that is in a bucket as an AMI, and wait until it is available.

    What is not given comes from the manifest; a manifest with a kernel makes a paravirtual image.

    Example: [bold]amistream register s3://my-bucket/web/image.manifest.xml --ami-name web-1[/bold]
    """
    from amistream.cli.foreground import run_here

    # What EC2 is asked for is judged as for `bundle`, where a kernel needs the word.
    kind = virtualization or ("paravirtual" if kernel or ramdisk else None)
    request = validated_request(context, "s3://any", virtualization=kind)
    wish = wish_of(context, request)

    async def work(session: BundleSession) -> Registered:
        return await session.register(manifest, wish, region=request.region or "")

    done = run_here(settings_for(config, request), work)
    put_result(done.model_dump_json() if as_json else registered_text(done))
    return EXIT_DONE


def registered_text(done: Registered) -> str:
    return columns(
        [("AMI", done.image_id), ("name", done.image_name), ("region", done.region), ("manifest", done.manifest)]
    )
