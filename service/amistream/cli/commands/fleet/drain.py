"""The command `fleet drain`: takes this host out of the fleet."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from amistream.cli.daemon_socket import socket_path
from amistream.cli.options import ConfigOption, JsonOption, SocketOption
from amistream.cli.output import put_answer
from amistream.cli.table import counted
from amistream.errors import EXIT_DONE
from amistream.events import QueueHealth

LOOKED_EVERY_S = 1.0


def drain(
    *,
    detach: Annotated[
        bool, typer.Option("--detach", "--no-wait", help="Do not wait for the jobs of the queue to end.")
    ] = False,
    socket: SocketOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> int:
    """Take this host out of the fleet: its daemon takes no more jobs from the queue, until its next start.

    It waits until the jobs of the queue have ended, or were given back after queue_drain_s; jobs of the socket go on. A
    queue cannot address a host: run the command on the host, for example by SSM.

    Example: [bold]amistream fleet drain[/bold]
    """
    from amistream.cli.client import Client

    async def ask() -> QueueHealth:
        async with Client(socket_path(socket, config)) as client:
            found = await client.drain()
            while found.jobs and not detach:
                await asyncio.sleep(LOOKED_EVERY_S)
                found = (await client.health()).queue or found
            return found

    put_answer(asyncio.run(ask()), _drained_text, as_json=as_json)
    return EXIT_DONE


def _drained_text(health: QueueHealth) -> str:
    left = f"; {counted(health.jobs, 'job')} of it still run" if health.jobs else ""
    return f"this host takes no more jobs from {health.url}{left}"
