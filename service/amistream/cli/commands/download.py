"""The command `download`: copies a bundle as it is from a bucket into a directory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from amistream.cli.manifest_arguments import Manifest, settings_for, transferred_facts
from amistream.cli.options import ConfigOption, JsonOption
from amistream.cli.output import put_result
from amistream.cli.request_options import takes, validated
from amistream.cli.table import columns
from amistream.errors import EXIT_DONE
from amistream.request import Reach

if TYPE_CHECKING:
    from amistream.bundles.results import Transferred
    from amistream.bundles.session import BundleSession

Directory = Annotated[
    Path,
    typer.Argument(metavar="DIR", help="Directory for the files; made if it does not exist.", show_default=False),
]


@takes("region", "endpoint_url")
def download(
    context: typer.Context,
    manifest: Manifest,
    directory: Directory,
    *,
    config: ConfigOption = None,
    as_json: JsonOption = False,
    **_: Any,
) -> int:
    """Copy a bundle unchanged into a directory, and check each part's SHA-1.

    Run again after an interruption, it keeps the valid parts that are there. It never replaces a file.

    Example: [bold]amistream download s3://my-bucket/web/image.manifest.xml ./web[/bold]
    """
    from amistream.bundles.meter import Meter
    from amistream.cli.foreground import progress_bar, run_here

    meter = Meter()

    async def work(session: BundleSession) -> Transferred:
        async with progress_bar(meter, "downloading"):
            return await session.download(manifest, directory.absolute(), meter)

    done = run_here(settings_for(config, validated(Reach, context)), work)
    put_result(done.model_dump_json() if as_json else columns(transferred_facts(done)))
    return EXIT_DONE
