"""Hands a named conversion over from one attempt to another: what a run makes of the snapshots that others have made.

The table of `conversion_attempts` in steps: a job that is done is found before the source is looked at, a completed
snapshot is taken over in place of a pass, and the snapshots of other attempts go in the end. A job without a name has
none, and nothing here asks.
"""

from __future__ import annotations

from amistream.checks.conversion import ReadyConversion
from amistream.errors import StoreError
from amistream.events import ConversionResult
from amistream.jobs.conversion_attempts import likely_region
from amistream.jobs.own_snapshot import OwnSnapshot


async def find_done(own: OwnSnapshot) -> ConversionResult | None:
    """The result of an attempt on another host that has finished the job. The source need not be there any more then.

    If another attempt's snapshot is completed, this run's own is forgotten: it goes in the end, with those of others.
    """
    job, record = own.job, own.record
    if not job.name:
        return None
    region = record.converting.region if record is not None else await likely_region(own.context)
    if not region:
        return None
    attempts = await own.attempts(region)
    found = await attempts.completed()
    if found is None or (record is not None and found.id == record.snapshot):
        return None
    own.record = None
    image = await attempts.image() if own.request.registers else None
    if own.request.registers and image is None:
        return None
    await job.confirm()
    await attempts.settle(found.id)
    result = await attempts.result(found, image)
    job.note(f"{found.id} is there already, made by an earlier attempt of this job")
    return result


async def take_over(own: OwnSnapshot, ready: ReadyConversion) -> ConversionResult | None:
    """Take over the completed snapshot of an attempt on another host, or remove what such attempts left."""
    job = own.job
    if not job.name:
        return None
    await job.confirm()
    attempts = await own.attempts(ready.region)
    found = await attempts.completed()
    if found is None:
        for removed in await attempts.remove_others("", completed=False):
            job.note(f"the snapshot {removed} of an earlier attempt is removed: it begins anew")
        return None
    await own.enter(ready)
    result = await attempts.result(found, None)
    await own.enter_started(found.id)
    await own.enter_content(result)
    job.note(f"{found.id} is completed already, by an earlier attempt of this job")
    return result


async def remove_others(own: OwnSnapshot) -> None:
    """Remove snapshots of other attempts, if this run's is the outcome. Raises `FencedError` if another one is."""
    if not own.job.name:
        return
    try:
        await (await own.attempts(own.known.converting.region)).settle(own.snapshot_id)
    except StoreError as error:
        # A pending one is given up by EBS in time.
        own.job.note(f"not looked for snapshots of other attempts: {error.message}")
