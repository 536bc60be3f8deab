"""The command `jobs`: lists jobs."""

from __future__ import annotations

from typing import Annotated

import typer

from amistream.cli.job_access import Jobs
from amistream.cli.options import ConfigOption, InProcessOption, JsonOption, SocketOption
from amistream.cli.output import put_answer
from amistream.events import State


def jobs(
    *,
    state: Annotated[
        State | None, typer.Option("--state", metavar="STATE", help=f"Only jobs in this state: {', '.join(State)}.")
    ] = None,
    in_process: InProcessOption = False,
    socket: SocketOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> int:
    """List the jobs, oldest first.

    Example: [bold]amistream jobs --state bundling[/bold]
    """
    from amistream.cli.summary import job_table

    found = Jobs(socket, config, in_process=in_process).list(state)
    return put_answer(found, lambda found: job_table(found.jobs), as_json=as_json)
