"""Options of every command, and the daemon's socket that they select."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

SocketOption = Annotated[
    Path | None,
    typer.Option(
        "--socket",
        envvar="AMISTREAM_SOCKET",
        metavar="PATH",
        readable=False,  # the client reports missing permissions with more help
        help="The daemon's Unix socket; default: the setting of that name.",
    ),
]
ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        envvar="AMISTREAM_CONFIG",
        metavar="FILE",
        readable=False,  # the same, by `settings`
        help="Settings file; default: /etc/amistream/amistream.toml.",
    ),
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Write the result to stdout as one line of JSON, for machines.")
]
DetachOption = Annotated[
    bool, typer.Option("--detach", "--no-wait", help="Do not wait for the job's end; print its id only.")
]
InProcessOption = Annotated[
    bool,
    typer.Option("--in-process", help="Use no daemon: work on the jobs of the state directory in this process."),
]
JobArgument = Annotated[str, typer.Argument(metavar="ID", help="The job's id, as `amistream jobs` shows it.")]


def socket_path(socket: Path | None, config: Path | None) -> Path:
    """Give the socket of the option, or else of the settings."""
    if socket is not None and config is None:
        return socket
    # Loading settings takes a third of a quick command's time, and is skipped if the socket is given.
    from amistream.settings import load

    # A given file is always read, because it may be invalid.
    settings = load(config)
    return socket or settings.socket
