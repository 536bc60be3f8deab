"""Opens everything that jobs need: the journal, the engine and the queue, for the daemon and for `--in-process`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from amistream.aws.session import Aws
from amistream.jobs.engine import Engine
from amistream.jobs.journal import Journal
from amistream.jobs.queue import JobQueue, Work
from amistream.settings import Settings


@asynccontextmanager
async def open_queue(
    settings: Settings, aws: Aws, *, by_itself: bool, watch: Callable[[Work], Work] = lambda run: run
) -> AsyncIterator[JobQueue]:
    """A queue over the state directory's journal; leaving waits for every job.

    `by_itself` is the journal's: the next daemon takes up these jobs. `watch` wraps the engine's `run`.
    """
    async with Journal(settings.state_dir, by_itself=by_itself) as journal:
        engine = Engine(settings, journal, aws)
        async with JobQueue(
            watch(engine.run),
            engine.clean,
            journal,
            max_jobs=settings.max_jobs,
            max_queued=settings.max_queued,
            default_prefix=settings.prefix,
        ) as queue:
            yield queue
