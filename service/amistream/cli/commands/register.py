"""The command `register`: makes an AMI of an existing bundle."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from amistream.cli.manifest_arguments import Manifest, registration_options, settings_for
from amistream.cli.options import ConfigOption, JsonOption
from amistream.cli.output import put_answer
from amistream.cli.request_options import takes, validated
from amistream.cli.table import columns
from amistream.request import StoreReach

if TYPE_CHECKING:
    from amistream.reports import Registered


@takes(
    *("region", "endpoint_url", "architecture", "virtualization", "kernel", "ramdisk", "block_device_mappings"),
    *("ami_name", "description", "sriov", "ena", "tags"),
)
def register(
    context: typer.Context,
    manifest: Manifest,
    *,
    config: ConfigOption = None,
    as_json: JsonOption = False,
    **_: Any,
) -> int:
    """Register a bundle that is in a bucket as an AMI, and wait until it is available.

    Options that are not given come from the manifest; a manifest with a kernel makes a paravirtual AMI.

    Example: [bold]amistream register s3://my-bucket/web/image.manifest.xml --ami-name web-1[/bold]
    """
    from amistream.cli.foreground import run_here

    reach, wish = validated(StoreReach, context), registration_options(context)
    done = run_here(
        settings_for(config, reach), lambda session, _: session.register(manifest, wish, region=reach.region or "")
    )
    return put_answer(done, registered_text, as_json=as_json)


def registered_text(done: Registered) -> str:
    return columns(
        [("AMI", done.image_id), ("name", done.image_name), ("region", done.region), ("manifest", done.manifest)]
    )
