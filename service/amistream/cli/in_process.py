"""`bundle --in-process`: the same job by the same engine, in this process and without a daemon.

Imported only when it is asked for: the engine brings the AWS SDK, the ciphers and the codecs with it.
"""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import uvloop

from amistream import log
from amistream.cli.follow import show_until_end
from amistream.cli.output import put_note
from amistream.events import JobView, State
from amistream.jobs.engine import Engine
from amistream.jobs.job import Job
from amistream.jobs.journal import Journal
from amistream.jobs.request import JobRequest
from amistream.settings import LogFormat, Settings, load

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def run_in_process(request: JobRequest, config: Path | None) -> tuple[JobView, bool]:
    """Run the job to its end and return it, and whether a signal ended it."""
    settings = load(config)
    # Warnings would say a second time, over the bar, what the job's end says.
    log.configure("error", LogFormat.TEXT)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_run(request, settings))


async def _run(request: JobRequest, settings: Settings) -> tuple[JobView, bool]:
    job = Job(request)
    loop = asyncio.get_running_loop()
    async with (
        Journal(settings.state_dir, by_itself=False) as journal,
        Engine(settings, journal) as engine,
        asyncio.TaskGroup() as group,
    ):
        await engine.enter(job)
        group.create_task(show_until_end(job.events()), name="progress")
        running = group.create_task(engine.run(job), name=f"job {job.id}")

        def stop() -> None:
            # Only once: a second cancel would cut the clean-up short and leave parts in the bucket.
            if job.cancel_requested:
                put_note("still removing what was stored; this takes a moment")
            else:
                job.cancel_requested = True
                put_note("cancelling; what was stored is removed")
                running.cancel()

        # The tasks' first steps are due before any signal's: a job that is cancelled has always begun.
        for number in STOP_SIGNALS:
            loop.add_signal_handler(number, stop)
    return job.view(), job.state is State.CANCELLED and job.cancel_requested
