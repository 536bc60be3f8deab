"""The client of the socket API where the daemon is away, goes away, or is something else."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import pytest

from amistream.cli.client import Client
from amistream.errors import (
    AccessDeniedError,
    AmistreamError,
    BusyError,
    ConflictError,
    DaemonUnreachableError,
    JobError,
    NotFoundError,
    UsageError,
)
from amistream.events import Event, State
from cli.running import Cli, Spawn, ended
from cli.scripted import ScriptedDaemon, begin, succeed
from security.people import some_group

QUICK = (0.0, 0.0)


async def test_a_dropped_stream_goes_on(daemon: ScriptedDaemon) -> None:
    """After a break in the middle of an event, the stream goes on with that event: none is lost, none comes twice."""
    succeed(job := daemon.add())
    daemon.dropped_streams = 3
    async with Client(daemon.socket, retry_delays_s=(0.0,)) as client:
        events = [event async for event in client.events(job.id)]
    assert events == job._events
    assert [each.headers.get("Last-Event-ID") for each in daemon.seen] == [
        None,
        *(str(event.id) for event in events[:3]),
    ]


async def test_a_stream_ends_with_the_job(daemon: ScriptedDaemon) -> None:
    """Events of a living job come as they happen, and the one that ends it is the last."""
    job = daemon.add()
    seen: list[Event] = []
    async with Client(daemon.socket, retry_delays_s=QUICK) as client:
        async for event in client.events(job.id):
            seen.append(event)
            if event.job.state is State.QUEUED:
                begin(job)
            elif event.type == "progress":
                job.move(State.CANCELLED)
    assert [event.type for event in seen] == ["state", "state", "state", "progress", "state"]


async def test_a_daemon_that_is_gone_for_good(socket: Path) -> None:
    """When the daemon goes and does not come back, following fails and says how to start it."""
    async with Client(socket, retry_delays_s=QUICK) as client:
        async with ScriptedDaemon(socket).serve() as daemon:
            begin(job := daemon.add())
            events = client.events(job.id)
            await anext(events)
        with pytest.raises(DaemonUnreachableError, match="cannot reach the daemon") as raised:
            _ = [event async for event in events]
    assert raised.value.exit_status == 6
    assert "systemctl start amistream" in raised.value.hint


async def test_a_daemon_that_lost_the_job(daemon: ScriptedDaemon) -> None:
    """A daemon that was started again and does not know the job any more ends the following as a failed job does."""
    begin(job := daemon.add())
    daemon.dropped_streams, daemon.forget_after_drop = 1, True
    async with Client(daemon.socket, retry_delays_s=QUICK) as client:
        with pytest.raises(JobError, match="does not know it any more") as raised:
            _ = [event async for event in client.events(job.id)]
    assert raised.value.code == "job.lost"


async def test_replies_that_stay_lost(daemon: ScriptedDaemon) -> None:
    """A daemon that breaks every connection off is given up after the last try."""
    job = daemon.add()
    daemon.lost_replies = 99
    async with Client(daemon.socket, retry_delays_s=QUICK) as client:
        with pytest.raises(DaemonUnreachableError, match="the connection was lost"):
            await client.get(job.id)
    # aiohttp repeats a GET once itself.
    assert len(daemon.seen) >= 3


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (UsageError("request.invalid", "cannot a", hint="h", field="source"), 2),
        (NotFoundError("job.unknown", "cannot b"), 2),
        (ConflictError("job.ended", "cannot c"), 2),
        (AccessDeniedError("access.denied", "cannot d"), 2),
        (BusyError("daemon.full", "cannot e"), 4),
        (AmistreamError("internal.bug", "cannot f"), 1),
    ],
)
async def test_errors_keep_their_class_and_words(daemon: ScriptedDaemon, error: AmistreamError, status: int) -> None:
    """An error of the daemon arrives as what it was, down to its exit status."""
    daemon.refuse = error
    async with Client(daemon.socket) as client:
        with pytest.raises(type(error)) as raised:
            await client.get("x")
    assert (raised.value.as_dict(), raised.value.exit_status) == (error.as_dict(), status)


@pytest.mark.parametrize("status", [200, 502])
@pytest.mark.parametrize("command", ["status", "watch"])
async def test_something_else_behind_the_socket(daemon: ScriptedDaemon, cli: Cli, command: str, status: int) -> None:
    """A peer that does not speak the API is reported as such, not as a bug."""
    daemon.garbage, daemon.garbage_status = b"data: <html>\n\n", status
    outcome = await cli(command, "x")
    assert (outcome.status, outcome.stdout) == (6, "")
    assert f"cannot understand what answers at {daemon.socket}" in outcome.stderr


@pytest.mark.parametrize("words", [["jobs"], ["watch", "x"], ["bundle", "x", "--to", "out"]])
async def test_no_daemon(cli: Cli, socket: Path, words: list[str]) -> None:
    """Without a daemon every command says at once how to start one, with exit status 6."""
    outcome = await cli(*words, "--json")
    error = json.loads(outcome.stdout)["error"]
    assert (outcome.status, error["code"]) == (6, "daemon.unreachable")
    for word in (f"cannot reach the daemon at {socket}", "systemctl start amistream", "--in-process"):
        assert word in outcome.stderr


async def test_a_socket_that_nobody_serves(cli: Cli, socket: Path) -> None:
    """A socket file that a dead daemon left is told like a missing one."""
    server = await asyncio.start_unix_server(lambda *_: None, socket)
    server.close()
    await server.wait_closed()
    assert socket.exists()
    outcome = await cli("jobs")
    assert (outcome.status, "refused" in outcome.stderr) == (6, True)


@pytest.mark.parametrize("let_in", ["a group", "root alone"])
async def test_a_socket_one_may_not_open(let_in: str, daemon: ScriptedDaemon, spawn: Spawn) -> None:
    """A user outside the socket's group is told which group that is, and is not sent into root's."""
    daemon.socket.chmod(0)
    before: tuple[str, ...] = ()
    if os.geteuid() == 0:
        # Root may open everything, so that the socket has to be somebody else's, and root's privilege taken away.
        os.chown(daemon.socket, 65534, some_group().gr_gid if let_in == "a group" else 0)
        less = "-dac_override,-dac_read_search"
        before = ("setpriv", "--bounding-set", less, "--inh-caps", less)
    outcome = await ended(await spawn("jobs", before=before))
    assert outcome.status == 6
    assert "Permission denied" in outcome.stderr
    if daemon.socket.stat().st_gid:
        assert f"the group '{daemon.socket.group()}'" in outcome.stderr
    else:
        assert "use sudo; to let a group in, set socket_group" in outcome.stderr
