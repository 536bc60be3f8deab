"""Removes the snapshot and the AMI that a conversion made and did not finish, and nothing that anyone else made.

The snapshot's id in the journal is the answer to this job's own start. An AMI is the job's if the journal has its id,
or if its name, its snapshot and its tag prove it. Once the snapshot is gone, no late request can register an AMI.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial

from amistream.aws.ec2 import Ec2
from amistream.errors import InUseError
from amistream.flow.retry import with_retries
from amistream.flow.undo import Progress
from amistream.jobs.conversion_records import ConversionRecord
from amistream.jobs.job_snapshot import JobSnapshot
from amistream.ports.registry import Registration
from amistream.stages.register import LOOKS_AFTER_LOST_ANSWER, find_ours


async def remove_conversion(
    record: ConversionRecord,
    snapshot: JobSnapshot,
    ec2: Ec2,
    registration: Registration | None,
    progress: Progress,
) -> None:
    """Deregister the AMI and delete the snapshot. Raises `StoreError`, of an AMI that is not the job's `InUseError`.

    `record` is kept up to date. A start without an answer is repeated: its token gives the same snapshot.
    """
    if record.snapshot is None:
        started = await snapshot.start(record.converting.order)
        record.know_started(started.id)
    if not record.snapshot:
        return
    registration = replace(registration, snapshot_id=record.snapshot) if registration else None
    for looks_left in reversed(range(LOOKS_AFTER_LOST_ANSWER)):
        await _deregister(record, snapshot, ec2, registration)
        progress()
        try:
            waiting = partial(progress, compared=True)
            await snapshot.discard(record.snapshot, record.started_at, waiting=waiting)
        except InUseError:
            # The AMI of a late request, or one that is deregistered and not forgotten yet.
            if not looks_left or registration is None:
                raise
            await asyncio.sleep(snapshot.poll_s)
        else:
            break
    record.snapshot = ""
    progress()


async def _deregister(
    record: ConversionRecord, snapshot: JobSnapshot, ec2: Ec2, registration: Registration | None
) -> None:
    own = record.image
    if own is None and registration is not None:
        found = await find_ours(ec2, registration, snapshot.retry)
        own = found.id if found is not None and found.is_by_job_of(registration) else ""
    if own:
        image_id = own
        await with_retries(snapshot.retry, f"deregister {image_id}", lambda _: ec2.deregister(image_id))
