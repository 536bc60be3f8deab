"""Ends the jobs of a queue of many hosts that nobody goes on with: their messages went to another host, or are gone.

A job that is given back, or whose lease is lost, stays resumable on its host: it goes on there if its message comes
again. No message comes after `LONGEST_KEPT_S`.
"""

from __future__ import annotations

from datetime import datetime

import structlog

from amistream.errors import ConflictError, JournalError, NotFoundError
from amistream.jobs.deliveries import LONGEST_KEPT_S
from amistream.jobs.journal import Journal
from amistream.jobs.queue import JobQueue
from amistream.jobs.records import JournalEntry, NextStep

log = structlog.get_logger()


async def end_old(queue: JobQueue, now: datetime) -> None:
    """End the jobs with a name that have waited for so long, and remove what they left where it is theirs still.

    A bundle that may be whole stays: somebody may have missed the result that the registration of its AMI failed.
    """
    for job in queue.jobs():
        if not job.name or not job.resumable or job.ended_at is None:
            continue
        if (now - job.ended_at).total_seconds() < LONGEST_KEPT_S:
            continue
        try:
            entry = await queue.journal.find(job.id)
            if entry is None:
                continue
            stays = await _may_be_whole(entry, queue.journal)
            if queue.get(job.id) is not job or not job.resumable:
                continue  # it was resumed meanwhile: a cancel would end that run
            log.info("job.old", job=job.id, name=job.name, stays=stays)
            await (queue.let_go(job.id) if stays else queue.cancel(job.id))
        except (ConflictError, JournalError, NotFoundError) as error:
            # Somebody else has it by now, or it is tried again the next day.
            log.warning("job.old_stays", job=job.id, reason=error.message)


async def end_if_unkept(queue: JobQueue, job_id: str) -> None:
    """End a job that was given back or fenced before it had made anything: there is nothing to go on with."""
    try:
        entry = await queue.journal.find(job_id)
        if entry is not None and entry.next_step is NextStep.WAITING:
            await queue.let_go(job_id)
    except (ConflictError, JournalError) as error:
        log.warning("job.old_stays", job=job_id, reason=error.message)


async def _may_be_whole(entry: JournalEntry, journal: Journal) -> bool:
    if entry.manifests or entry.done:
        return True
    record = await journal.migrations.find(entry.view.id)
    return record is not None and all(record.parts.values())
