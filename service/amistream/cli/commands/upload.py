"""The command `upload`: copies a bundle as it is from a directory into a bucket."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from amistream.cli.manifest_arguments import Bucket, Manifest, bucket_address, settings_for, transferred_facts
from amistream.cli.options import ConfigOption, JsonOption
from amistream.cli.output import put_result
from amistream.cli.request_options import takes, validated
from amistream.cli.table import columns
from amistream.errors import EXIT_DONE
from amistream.request import Reach

if TYPE_CHECKING:
    from amistream.bundles.results import Transferred
    from amistream.bundles.session import BundleSession


@takes("region", "endpoint_url", "acl")
def upload(
    context: typer.Context,
    manifest: Manifest,
    destination: Bucket,
    *,
    config: ConfigOption = None,
    as_json: JsonOption = False,
    **_: Any,
) -> int:
    """Copy a bundle from a directory into a bucket where EC2 can read it; also a bundle of the older tools.

    The SHA-1 of each part is checked before it is sent, and again by S3; the manifest goes last. Run again after an
    interruption, it sends only what is missing. It never replaces an object.

    Example: [bold]amistream upload ./web/image.manifest.xml s3://my-bucket/web[/bold]
    """
    from amistream.bundles.meter import Meter
    from amistream.cli.foreground import progress_bar, run_here

    address, reach, meter = bucket_address(destination), validated(Reach, context), Meter()

    async def work(session: BundleSession) -> Transferred:
        async with progress_bar(meter, "uploading"):
            return await session.upload(manifest, address, meter, region=reach.region or "")

    done = run_here(settings_for(config, reach), work)
    put_result(done.model_dump_json() if as_json else columns(transferred_facts(done)))
    return EXIT_DONE
