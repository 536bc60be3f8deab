"""The command `download`: copies a bundle as it is from a bucket into a directory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from amistream.cli import bundle_options as options
from amistream.cli.bundle_arguments import Manifest, settings_for, transferred_facts, validated_request
from amistream.cli.options import ConfigOption, JsonOption
from amistream.cli.output import put_result
from amistream.cli.table import columns
from amistream.errors import EXIT_DONE

if TYPE_CHECKING:
    from amistream.bundles.results import Transferred
    from amistream.bundles.session import BundleSession


Directory = Annotated[
    Path, typer.Argument(metavar="DIR", help="Where the files go; made when missing.", show_default=False)
]


def download(
    context: typer.Context,
    manifest: Manifest,
    directory: Directory,
    *,
    region: options.Region = None,
    endpoint_url: options.EndpointUrl = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> int:
    """Copy a bundle to a directory as it is, each part proved by its SHA-1.

    Begun again after it was cut short, it keeps the parts that are there and right. Nothing is ever replaced.

    Example: [bold]amistream download s3://my-bucket/web/image.manifest.xml ./web[/bold]
    """
    from amistream.bundles.meter import Meter
    from amistream.cli.foreground import progress_bar, run_here

    meter = Meter()

    async def work(session: BundleSession) -> Transferred:
        async with progress_bar(meter, "downloading"):
            return await session.download(manifest, directory.absolute(), meter)

    done = run_here(settings_for(config, validated_request(context)), work)
    put_result(done.model_dump_json() if as_json else columns(transferred_facts(done)))
    return EXIT_DONE
