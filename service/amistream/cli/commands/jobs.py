"""The command `jobs`: lists jobs. The daemon's answer is shown as it comes, without a model of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from amistream.cli.answers import list_of_jobs
from amistream.cli.daemon_socket import socket_path
from amistream.cli.job_table import job_table
from amistream.cli.options import ConfigOption, InProcessOption, JsonOption, SocketOption
from amistream.cli.output import put_result
from amistream.errors import EXIT_DONE, UsageError


def jobs(
    *,
    state: Annotated[
        str | None, typer.Option("--state", metavar="STATE", help="Only jobs in this state, such as bundling or done.")
    ] = None,
    in_process: InProcessOption = False,
    socket: SocketOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> int:
    """List the jobs, oldest first.

    Example: [bold]amistream jobs --state bundling[/bold]
    """
    text = None if in_process else list_of_jobs(socket_path(socket, config), state, as_json=as_json)
    put_result(_list(state, socket, config, in_process=in_process, as_json=as_json) if text is None else text)
    return EXIT_DONE


def _list(state: str | None, socket: Path | None, config: Path | None, *, in_process: bool, as_json: bool) -> str:
    from amistream.cli.job_access import Jobs
    from amistream.events import State

    if state is not None and state not in list(State):
        known = ", ".join(f"'{each}'" for each in State)
        raise UsageError("usage", f"cannot run the command: --state: {state!r} is not one of {known}")
    found = Jobs(socket, config, in_process=in_process).list(None if state is None else State(state))
    document = found.model_dump_json()
    return document if as_json else job_table(json.loads(document)["jobs"])
