"""The command `download`: copies a bundle as it is from a bucket into a directory."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from amistream.cli.manifest_arguments import Manifest, settings_for
from amistream.cli.options import ConfigOption, JsonOption
from amistream.cli.output import put_answer
from amistream.cli.request_options import takes, validated
from amistream.cli.showing import NoProgressOption, QuietOption, showing
from amistream.cli.transfer_text import transferred_text
from amistream.request import StoreReach

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
    quiet: QuietOption = False,
    no_progress: NoProgressOption = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
    **_: Any,
) -> int:
    """Copy a bundle unchanged into a directory, and check each part's SHA-1.

    Run again after an interruption, it keeps the valid parts that are there. It never replaces a file.

    Example: [bold]amistream download s3://my-bucket/web/image.manifest.xml ./web[/bold]
    """
    shown = showing(quiet=quiet, no_progress=no_progress, as_json=as_json)
    from amistream.cli.foreground import run_here

    done = run_here(
        settings_for(config, validated(StoreReach, context)),
        lambda session, meter: session.download(manifest, directory.absolute(), meter),
        "downloading",
        shown,
    )
    return put_answer(done, transferred_text, as_json=as_json)
