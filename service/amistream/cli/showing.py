"""The amount that a command shows: the options `--quiet`, `--verbose`, `--no-progress` and `--json` together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from amistream.errors import UsageError

QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Show errors and the result only.")]
VerboseOption = Annotated[
    bool, typer.Option("--verbose", "-v", help="Show each stage: its bytes, its time, its speed, and what limits.")
]
NoProgressOption = Annotated[bool, typer.Option("--no-progress", help="Show no progress; notes and the result remain.")]


@dataclass(frozen=True, kw_only=True)
class Showing:
    """`progress` and `notes` go to stderr, the result to stdout; `as_json` is the form of all of them.

    Without `earlier_notes` those are left out that the job had before the command.
    """

    progress: bool = True
    notes: bool = True
    stages: bool = False
    as_json: bool = False
    earlier_notes: bool = True


def showing(*, quiet: bool, no_progress: bool, as_json: bool, verbose: bool = False) -> Showing:
    """Give what the options ask for. Raises `UsageError`."""
    if quiet and verbose:
        raise UsageError("usage", "cannot run the command: --quiet and --verbose exclude each other")
    return Showing(progress=not (quiet or no_progress), notes=not quiet, stages=verbose, as_json=as_json)
