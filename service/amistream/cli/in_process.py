"""Runs jobs in this process for `--in-process`, by the same engine and without a daemon.

The state directory holds the same journal as a daemon's, so an unfinished job can be resumed here, or by a daemon with
that directory. Imported only on demand: the engine imports the AWS SDK, the ciphers and the codecs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from amistream.aws.session import Aws
from amistream.cli.follow import show_until_end
from amistream.cli.foreground import on_signals, run
from amistream.cli.output import put_note
from amistream.cli.showing import Showing
from amistream.events import JobView, State
from amistream.jobs.job import Job
from amistream.jobs.queue import JobQueue, open_queue
from amistream.settings import OnStop, load
from amistream.values import AccessKeys

_Answer = TypeVar("_Answer")


def follow_in_process(
    begin: Callable[[JobQueue], Awaitable[Job]],
    config: Path | None,
    keys: AccessKeys | None = None,
    shown: Showing | None = None,
    word: str = "",
) -> tuple[JobView, bool]:
    """Follow the job that `begin` begins to its end; return it, and whether a signal ended it.

    `keys` come before the AWS credentials that the SDK finds. `word` stands for the job unless it is new.
    """

    async def follow(queue: JobQueue) -> tuple[JobView, bool]:
        job = await begin(queue)
        interrupted = False

        async with asyncio.TaskGroup() as group:
            group.create_task(show_until_end(job.events(), shown or Showing()), name="progress")

            def stop(how: OnStop) -> None:
                nonlocal interrupted
                if not job.state.ended:
                    interrupted = True
                    group.create_task(queue.drain(how))

            def cancel() -> None:
                if interrupted:
                    put_note("stopping soon; what is not removed by then stays for `amistream cancel`")
                    stop(OnStop.INTERRUPT)
                elif not job.state.ended:
                    put_note("cancelling; what was stored is removed")
                    stop(OnStop.CANCEL)

            # A closed terminal must not undo hours of work: the job can be resumed.
            on_signals(cancel, lambda: stop(OnStop.INTERRUPT))
        return job.view(), interrupted and job.state in {State.CANCELLED, State.INTERRUPTED}

    return ask_in_process(follow, config, keys, over_like=word)


def ask_in_process(
    question: Callable[[JobQueue], Awaitable[_Answer]],
    config: Path | None,
    keys: AccessKeys | None = None,
    *,
    remove: bool = True,
    over_like: str | None = None,
) -> _Answer:
    """Answer one question about the jobs of the state directory that no daemon is running.

    With `remove` finish the removals of earlier processes, too, which changes the states of their jobs. `over_like`
    chooses among the jobs that are over, as `JobQueue.recover` has it: to load a thousand of them takes half a second.
    """
    settings = load(config)

    async def ask() -> _Answer:
        async with Aws(settings, keys) as aws, open_queue(settings, aws, by_itself=False) as queue:
            await queue.recover(resume=False, remove=remove, over_like=over_like)
            return await question(queue)

    return run(ask)
