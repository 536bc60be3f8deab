"""The snapshots that attempts of a named conversion made on other hosts, found by the tag with the job's name.

    snapshot             AMI with the tag    this attempt
    none                 none                begins
    pending, failed      none                removes it, and begins another one
    completed            none                takes it over, and registers the AMI
    completed            there, or not asked for     is done already

A snapshot takes blocks from its own attempt only: another attempt begins another one, under another client token. So an
attempt that wakes up finds that its snapshot is gone, and a completed one is always whole.
"""

from __future__ import annotations

from dataclasses import dataclass

from amistream.aws import buckets
from amistream.aws.ec2 import Ec2
from amistream.checks.conversion_context import ConversionContext
from amistream.errors import FencedError, InUseError
from amistream.events import ConversionResult
from amistream.flow.retry import with_retries
from amistream.jobs.job_snapshot import JobSnapshot
from amistream.jobs.same_request import check_same_request
from amistream.location import SCHEME, S3Location, parse_manifest_address
from amistream.ports.registry import JOB_TAG, REQUEST_TAG, Ami
from amistream.ports.snapshots import BlockPage, Snapshot, SnapshotState
from amistream.request import JobRequest
from amistream.values import GIB


async def likely_region(context: ConversionContext) -> str:
    """The region in which the snapshot is made, as far as it is known before the source is looked at."""
    request = context.request
    if request.region:
        return request.region
    source = request.source or ""
    if source.startswith(SCHEME) and isinstance(folder := parse_manifest_address(source)[0], S3Location):
        return await buckets.bucket_region(
            context.aws,
            folder.bucket,
            region="",
            endpoint_url=context.endpoint_url,
            timeout_s=context.settings.stall_timeout_s,
        )
    return await context.aws.default_region()


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempts:
    """The snapshots and AMIs that other attempts of the job left in a region. Every method raises `StoreError`."""

    name: str
    request: JobRequest
    snapshot: JobSnapshot
    ec2: Ec2
    may_remove: bool
    """The run has a lease. Without one, begun by hand, it does not know whether another host works on the job."""

    async def completed(self) -> Snapshot | None:
        """The completed snapshot of the job; of several the one that is registered, or else the oldest.

        Raises `RefusedError` if one is of another request under the job's name.
        """
        there = await self._snapshots()
        for each in there:
            check_same_request(self.name, self.request, each.tags.get(REQUEST_TAG, ""), f"the snapshot {each.id}")
        found = [each for each in there if each.state is SnapshotState.COMPLETED]
        if len(found) > 1 and (image := await self.image()) is not None:
            found = [each for each in found if each.id == image.snapshot_id] or found
        return min(found, key=lambda each: (each.started_at is None, each.started_at, each.id), default=None)

    async def image(self) -> Ami | None:
        """The AMI of the job."""
        what = f"look for the AMI of the job {self.name!r}"
        images = await with_retries(self.snapshot.retry, what, lambda _: self.ec2.tagged(JOB_TAG, self.name))
        return next((image for image in images if image.snapshot_id), None)

    async def check_none_but(self, own: str) -> None:
        """Raise `FencedError` if another attempt has a snapshot, in place of this one's."""
        for each in await self._snapshots():
            if each.id != own:
                raise self._fenced(f"another attempt has begun, with the snapshot {each.id}")

    async def check_not_replaced(self, own: str) -> None:
        """Raise `FencedError` if another attempt has a snapshot, and this one's is there no more."""
        found = {each.id for each in await self._snapshots()}
        if found and own not in found:
            raise self._fenced(f"another attempt has removed its snapshot {own}, and begun {min(found)}")

    async def settle(self, own: str) -> None:
        """Make `own`, which is completed, the only snapshot of the job. Raises `FencedError` if another one is.

        Two attempts may do so at the same moment, and remove each other's: then a further attempt begins anew.
        """
        outcome = await self.completed()
        if outcome is not None and outcome.id != own:
            raise self._fenced(f"the snapshot {outcome.id} of another attempt is the outcome")
        if not await self.remove_others(own, completed=True):
            return
        what = f"look at {own}"
        if await with_retries(self.snapshot.retry, what, lambda _: self.snapshot.ebs.describe(own)) is None:
            raise self._fenced(f"another attempt has removed {own}")

    async def remove_others(self, own: str, *, completed: bool) -> list[str]:
        """Delete the snapshots of the job but `own` and those that an AMI uses; returns the ids.

        With `completed` also those that are completed. Raises `FencedError` if it may not.
        """
        if not self.may_remove:
            await self.check_none_but(own)
            return []
        removed = []
        for each in await self._snapshots():
            if each.id == own or (each.state is SnapshotState.COMPLETED and not completed):
                continue
            try:
                await self._remove(each.id)
            except InUseError:
                continue
            removed.append(each.id)
        return removed

    async def result(self, found: Snapshot, image: Ami | None) -> ConversionResult:
        """The result of an earlier attempt, as far as it can be read from the snapshot."""
        return ConversionResult(
            snapshot_id=found.id,
            region=self.ec2.region,
            image_id=image.id if image is not None else None,
            image_name=image.name if image is not None else None,
            image_size=found.volume_gib * GIB,
            volume_size=found.volume_gib * GIB,
            blocks=await self._count_blocks(found.id),
            blocks_put=0,
            blocks_read=0,
            checksum="",
            elapsed_s=0,
            cpu_s=0,
            stages=(),
        )

    async def _count_blocks(self, snapshot_id: str) -> int:
        count, page = 0, ""
        while True:
            listed = await self._page(snapshot_id, page)
            count, page = count + len(listed.blocks), listed.next_page
            if not page:
                return count

    def _fenced(self, why: str) -> FencedError:
        return FencedError(
            "lease.lost",
            f"cannot go on with the job {self.name!r}: {why}",
            hint="nothing more is stored or removed here; the queue gives the job to whoever has it",
        )

    async def _page(self, snapshot_id: str, page: str) -> BlockPage:
        what = f"list the blocks of {snapshot_id}"
        return await with_retries(self.snapshot.retry, what, lambda _: self.snapshot.ebs.page(snapshot_id, page=page))

    async def _remove(self, snapshot_id: str) -> None:
        what = f"delete {snapshot_id}"
        await with_retries(self.snapshot.retry, what, lambda _: self.snapshot.ebs.discard(snapshot_id))

    async def _snapshots(self) -> list[Snapshot]:
        what = f"look for the snapshots of the job {self.name!r}"
        return await with_retries(self.snapshot.retry, what, lambda _: self.snapshot.ebs.find(JOB_TAG, self.name))
