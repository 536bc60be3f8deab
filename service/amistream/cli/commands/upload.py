"""The commands `download` and `upload`: a bundle as it is, between a bucket and a directory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from amistream.cli import bundle_options as options
from amistream.cli.bundle_arguments import Bucket, Manifest, settings_for, transferred_facts, validated_request
from amistream.cli.options import ConfigOption, JsonOption
from amistream.cli.output import put_result
from amistream.cli.table import columns
from amistream.errors import EXIT_DONE

if TYPE_CHECKING:
    from amistream.bundles.results import Transferred
    from amistream.bundles.session import BundleSession


def upload(
    context: typer.Context,
    manifest: Manifest,
    destination: Bucket,
    *,
    region: options.Region = None,
    endpoint_url: options.EndpointUrl = None,
    acl: options.Acl = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> int:
    """Copy a bundle from a directory into a bucket, where EC2 can read it; also one made by the older tools.

    Each part is proved by its SHA-1 before it is sent, and by S3 when it arrives; the manifest goes last. Begun again
    after it was cut short, it sends what is missing. Nothing is ever replaced.

    Example: [bold]amistream upload ./web/image.manifest.xml s3://my-bucket/web[/bold]
    """
    from amistream.bundles.meter import Meter
    from amistream.cli.foreground import progress_bar, run_here

    request, meter = validated_request(context, destination), Meter()

    async def work(session: BundleSession) -> Transferred:
        async with progress_bar(meter, "uploading"):
            return await session.upload(manifest, request.destinations[0], meter, region=request.region or "")

    done = run_here(settings_for(config, request), work)
    put_result(done.model_dump_json() if as_json else columns(transferred_facts(done)))
    return EXIT_DONE
