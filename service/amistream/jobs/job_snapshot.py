"""The snapshot of one job at EBS, from its start to the moment when it can be used, or to its removal.

Every request is safe to repeat: the same order has the same token, and so gives the same snapshot; a snapshot that is
complete is not completed again. What became of an unanswered request is found by asking again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import structlog

from amistream.aws.ebs import VISIBLE_AFTER_S
from amistream.errors import DeniedError, NotSupportedError, NotVisibleError, StoreError, UnreachedError
from amistream.flow.retry import RetryPolicy, with_retries
from amistream.ports.snapshots import Snapshot, SnapshotOrder, Snapshots, SnapshotState

log = structlog.get_logger()
T = TypeVar("T")


class RefusedStartError(StoreError):
    """No request for the start was taken, so there is no snapshot."""


@dataclass(frozen=True, kw_only=True)
class JobSnapshot:
    """`timeout_s` bounds the waits for its completion, `poll_s` is the time between two looks."""

    ebs: Snapshots
    retry: RetryPolicy
    timeout_s: float
    poll_s: float

    async def start(self, order: SnapshotOrder) -> Snapshot:
        """Start the snapshot of the order, or find it. Raises `RefusedStartError` if this call made none."""
        may_exist = False

        async def ask(_: object) -> Snapshot:
            nonlocal may_exist
            # An attempt that stalls ends by a cancel.
            before, may_exist = may_exist, True
            try:
                return await self.ebs.start(order)
            except UnreachedError:
                may_exist = before
                raise
            except StoreError as error:
                may_exist = before or error.transient
                raise

        try:
            return await with_retries(self.retry, f"start a snapshot of {order.volume_gib} GiB", ask)
        except StoreError as error:
            if may_exist:
                raise
            raise RefusedStartError(**error.as_dict(), transient=False) from error

    async def look(
        self, snapshot_id: str, started_at: float, *, waiting: Callable[[], object] = lambda: None
    ) -> Snapshot | None:
        """The snapshot as it is; None if it is gone. One that was started moments ago is waited for.

        `waiting` is called before each further look.
        """
        # A clock that was set back since the start says nothing about the snapshot's age: it may be new.
        age = max(0.0, time.time() - started_at)
        last_look = time.monotonic() + VISIBLE_AFTER_S - age
        while True:
            what = f"look at {snapshot_id}"
            found = await with_retries(self.retry, what, lambda _: self.ebs.describe(snapshot_id))
            if found is not None or time.monotonic() >= last_look:
                return found
            waiting()
            await asyncio.sleep(self.poll_s)

    async def complete(self, snapshot_id: str, blocks: int, checksum: bytes) -> None:
        """Complete the snapshot, and return once it can be read. Raises `StoreError`."""
        what = f"complete {snapshot_id}"
        await self._once_visible(what, lambda: self.ebs.complete(snapshot_id, blocks, checksum))
        for _ in range(self._looks):
            found = await with_retries(self.retry, f"look at {snapshot_id}", lambda _: self.ebs.describe(snapshot_id))
            if found is not None and found.state is SnapshotState.COMPLETED:
                return
            if found is not None and found.state is SnapshotState.ERROR:
                raise StoreError(
                    "snapshot.failed",
                    f"cannot complete {snapshot_id}: EBS put it into the state error "
                    f"({found.reason or 'it gave no reason'})",
                    hint="run the job again: it makes another snapshot",
                )
            await asyncio.sleep(self.poll_s)
        raise StoreError(
            "snapshot.timeout",
            f"cannot wait longer for {snapshot_id}: it is not completed after {self.timeout_s:g} s",
            hint=f"it may still be: aws ec2 describe-snapshots --snapshot-ids {snapshot_id}",
        )

    async def wait_listable(self, snapshot_id: str) -> str:
        """Return once its blocks can be listed; the reason if that cannot be asked.

        A snapshot that is completed may not be known to EBS's own listing for a while (coldsnap's issue 141).
        """
        try:
            await self._once_visible(f"list the blocks of {snapshot_id}", lambda: self.ebs.page(snapshot_id))
        except (DeniedError, NotSupportedError) as error:
            return error.message
        return ""

    async def discard(self, snapshot_id: str, started_at: float, *, waiting: Callable[[], object]) -> None:
        """Delete the snapshot. One that EC2 does not know yet is waited for: it would stay."""
        await self.look(snapshot_id, started_at, waiting=waiting)
        await with_retries(self.retry, f"delete {snapshot_id}", lambda _: self.ebs.discard(snapshot_id))

    @property
    def _looks(self) -> int:
        return max(1, round(self.timeout_s / self.poll_s))

    async def _once_visible(self, what: str, ask: Callable[[], Awaitable[T]]) -> T:
        """Ask until EBS knows the snapshot everywhere. Raises `StoreError`."""
        while True:

            async def attempt(_: object) -> tuple[T | None, bool]:
                try:
                    return await ask(), True
                except NotVisibleError as error:
                    log.info("snapshot.not_visible", reason=error.message)
                    return None, False

            answer, is_visible = await with_retries(self.retry, what, attempt)
            if is_visible:
                return answer  # type: ignore[return-value]
            await asyncio.sleep(self.poll_s)
