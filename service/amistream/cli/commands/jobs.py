"""The command `jobs`: lists jobs. The daemon's answer is shown as it comes, without a model of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from amistream.cli.answers import Listing, list_of_jobs, listed
from amistream.cli.daemon_socket import socket_path
from amistream.cli.job_table import MOST, SHOWN
from amistream.cli.options import ConfigOption, InProcessOption, JsonOption, SocketOption
from amistream.cli.output import put_result
from amistream.errors import EXIT_DONE, UsageError
from amistream.states import UNFINISHED, State


def jobs(
    *,
    state: Annotated[
        str | None,
        typer.Option(
            "--state",
            metavar="STATE",
            help="Only jobs in this state, such as bundling or done; failed: interrupted ones too; unfinished: all "
            "that can be resumed or cleaned.",
        ),
    ] = None,
    label: Annotated[str | None, typer.Option("--label", metavar="TEXT", help="Only jobs with this label.")] = None,
    limit: Annotated[
        int,
        typer.Option("--limit", metavar="N", min=1, max=MOST, help=f"List the newest N jobs, {MOST} at the most."),
    ] = SHOWN,
    every: Annotated[bool, typer.Option("--all", "-a", help="List every job that is remembered.")] = False,
    in_process: InProcessOption = False,
    socket: SocketOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> int:
    """List the jobs, the newest first: state, progress, age, size, who submitted it, and its AMI or destination.

    With --json the order is that of the API: the newest last.

    Example: [bold]amistream jobs --state failed[/bold]

    Example: [bold]amistream jobs --label nightly --all[/bold]
    """
    asked = Listing(state, label, None if every else limit)
    text = None if in_process else list_of_jobs(socket_path(socket, config), asked, as_json=as_json)
    if text is None:
        document = _list(asked, socket, config, in_process=in_process, as_json=as_json)
        text = document if as_json else listed(json.loads(document), asked)
    put_result(text)
    return EXIT_DONE


def _list(asked: Listing, socket: Path | None, config: Path | None, *, in_process: bool, as_json: bool) -> str:
    from amistream.cli.job_access import Jobs

    known = (*State, UNFINISHED)
    if asked.state is not None and asked.state not in known:
        words = ", ".join(f"'{each}'" for each in known)
        raise UsageError("usage", f"cannot run the command: --state: {asked.state!r} is not one of {words}")
    jobs = Jobs(socket, config, in_process=in_process)
    return jobs.list(asked.state, asked.label, asked.most(as_json=as_json)).model_dump_json()
