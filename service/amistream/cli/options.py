"""Options that several commands have."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer

from amistream.errors import UsageError

_AGES = {"h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1), "y": timedelta(days=365)}

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
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask; required where there is no terminal.")]
DryRun = Annotated[bool, typer.Option("--dry-run", "-n", help="Only show what would be deleted.")]
OlderThan = Annotated[
    str | None,
    typer.Option("--older-than", metavar="30d", help="Only those older than so many hours (h), days, weeks or years."),
]
JobArgument = Annotated[
    str,
    typer.Argument(
        metavar="ID",
        help="The job's id, its first letters, the first of its last six letters, or `last`: your newest job.",
    ),
]


def parse_age(text: str) -> timedelta:
    """Parse an age such as `30d`. Raises `UsageError`."""
    found = re.fullmatch(r"([0-9]{1,5})([hdwy])", text)
    if found is None:
        raise UsageError(
            "usage", f"cannot run the command: --older-than: {text!r} is no age", hint="write 12h, 30d, 4w or 1y"
        )
    return int(found[1]) * _AGES[found[2]]
