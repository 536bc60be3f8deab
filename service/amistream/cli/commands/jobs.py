"""The command `jobs`: lists jobs."""

from __future__ import annotations

from typing import Annotated

import typer

from amistream.cli.job_access import list_jobs
from amistream.cli.options import (
    ConfigOption,
    InProcessOption,
    JsonOption,
    SocketOption,
)
from amistream.cli.output import put_result
from amistream.errors import EXIT_DONE
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
    from amistream.events import JobList

    found = JobList(jobs=list_jobs(state, in_process=in_process, socket=socket, config=config))
    put_result(found.model_dump_json() if as_json else job_table(found.jobs))
    return EXIT_DONE
