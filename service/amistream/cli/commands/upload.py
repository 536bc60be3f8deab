"""The command `upload`: copies a bundle as it is from a directory into a bucket."""

from __future__ import annotations

from typing import Any

import typer

from amistream.cli.manifest_arguments import Bucket, Manifest, bucket_address, settings_for
from amistream.cli.options import ConfigOption, JsonOption
from amistream.cli.output import put_answer
from amistream.cli.request_options import takes, validated
from amistream.cli.showing import NoProgressOption, QuietOption, showing
from amistream.cli.transfer_text import transferred_text
from amistream.request import StoreReach


@takes("region", "endpoint_url", "acl")
def upload(
    context: typer.Context,
    manifest: Manifest,
    destination: Bucket,
    *,
    quiet: QuietOption = False,
    no_progress: NoProgressOption = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
    **_: Any,
) -> int:
    """Copy a bundle from a directory into a bucket where EC2 can read it; also a bundle of the older tools.

    The SHA-1 of each part is checked before it is sent, and again by S3; the manifest goes last. Run again after an
    interruption, it sends only what is missing. It never replaces an object.

    Example: [bold]amistream upload ./web/image.manifest.xml s3://my-bucket/web[/bold]
    """
    shown = showing(quiet=quiet, no_progress=no_progress, as_json=as_json)
    from amistream.cli.foreground import run_here

    address, reach = bucket_address(destination), validated(StoreReach, context)
    done = run_here(
        settings_for(config, reach),
        lambda session, meter: session.upload(manifest, address, meter, region=reach.region or ""),
        "uploading",
        shown,
    )
    return put_answer(done, transferred_text, as_json=as_json)
