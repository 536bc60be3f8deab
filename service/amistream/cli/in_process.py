"""`--in-process`: the same jobs by the same engine, in this process and without a daemon.

The state directory holds the same journal as a daemon's, so what was cut short here can be resumed here, or by a daemon
that has that directory. Imported only when it is asked for: the engine brings the AWS SDK, the ciphers and the codecs
with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import uvloop

from amistream import log
from amistream.aws.session import Aws
from amistream.cli.follow import show_until_end
from amistream.cli.output import put_note
from amistream.errors import first_cause
from amistream.events import JobView, State
from amistream.jobs.job import Job
from amistream.jobs.opening import open_queue
from amistream.jobs.queue import JobQueue
from amistream.process import STOP_SIGNALS, settle_memory
from amistream.request import JobRequest
from amistream.settings import LogFormat, OnStop, Settings, load
from amistream.values import AccessKeys

_Answer = TypeVar("_Answer")


def run_in_process(request: JobRequest, config: Path | None, keys: AccessKeys | None = None) -> tuple[JobView, bool]:
    """Run the job to its end and return it, and whether a signal ended it.

    `keys` come before the AWS credentials that the SDK finds.
    """

    async def begin(queue: JobQueue) -> Job:
        job, _ = await queue.submit(request)
        return job

    return follow_in_process(begin, config, keys)


def follow_in_process(
    begin: Callable[[JobQueue], Awaitable[Job]], config: Path | None, keys: AccessKeys | None = None
) -> tuple[JobView, bool]:
    """Follow the job that `begin` begins to its end and return it, and whether a signal ended it."""

    async def follow(queue: JobQueue) -> tuple[JobView, bool]:
        job = await begin(queue)
        loop = asyncio.get_running_loop()

        async def stop() -> None:
            put_note("cancelling; what was stored is removed")
            await queue.drain(OnStop.CANCEL)

        async with asyncio.TaskGroup() as group:
            group.create_task(show_until_end(job.events()), name="progress")

            def stop_once() -> None:
                if queue.stopping:
                    put_note("still removing what was stored; this takes a moment")
                elif not job.state.ended:
                    queue.close()
                    group.create_task(stop())

            for number in STOP_SIGNALS:
                loop.add_signal_handler(number, stop_once)
        return job.view(), job.state is State.CANCELLED and job.cancel_requested

    return ask_in_process(follow, config, keys)


def ask_in_process(
    question: Callable[[JobQueue], Awaitable[_Answer]], config: Path | None, keys: AccessKeys | None = None
) -> _Answer:
    """Put one question to the jobs of the state directory that no daemon is running."""
    settle_memory()
    settings = load(config)
    # Warnings would say a second time, over the bar, what the job's end says.
    log.configure("error", LogFormat.TEXT)

    async def ask() -> _Answer:
        async with _queue(settings, keys) as queue:
            return await question(queue)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            return runner.run(ask())
        except BaseExceptionGroup as errors:
            # What the question raised comes through the queue's task group.
            raise first_cause(errors) from None


@asynccontextmanager
async def _queue(settings: Settings, keys: AccessKeys | None) -> AsyncIterator[JobQueue]:
    async with (
        Aws(settings, keys) as aws,
        open_queue(settings, aws, by_itself=False) as queue,
    ):
        await queue.recover(resume=False)
        yield queue
