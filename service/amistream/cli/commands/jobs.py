"""The command `jobs`: lists jobs. The daemon's answer is shown as it comes, without a model of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import typer

from amistream.cli.job_table import job_table
from amistream.cli.one_request import fetch
from amistream.cli.options import ConfigOption, InProcessOption, JsonOption, SocketOption, socket_path
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
    text = None
    if not in_process:
        query = "" if state is None else f"?state={quote(state, safe='')}"
        text = _answered(socket_path(socket, config), f"/v1/jobs{query}", as_json=as_json)
    put_result(_list(state, socket, config, in_process=in_process, as_json=as_json) if text is None else text)
    return EXIT_DONE


def _answered(address: Path, path: str, *, as_json: bool) -> str | None:
    """The daemon's answer, formatted; None if it has to be asked by the client, which says what is wrong."""
    answer = fetch(address, path)
    if answer is None:
        return None
    try:
        return answer.decode() if as_json else job_table(json.loads(answer)["jobs"])
    except (ValueError, KeyError, TypeError):
        return None


def _list(state: str | None, socket: Path | None, config: Path | None, *, in_process: bool, as_json: bool) -> str:
    from amistream.cli.job_access import Jobs
    from amistream.events import State

    if state is not None and state not in list(State):
        known = ", ".join(f"'{each}'" for each in State)
        raise UsageError("usage", f"cannot run the command: --state: {state!r} is not one of {known}")
    found = Jobs(socket, config, in_process=in_process).list(None if state is None else State(state))
    document = found.model_dump_json()
    return document if as_json else job_table(json.loads(document)["jobs"])
