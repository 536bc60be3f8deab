"""A completed EBS snapshot as a volume: read through the EBS direct APIs, without a volume, an instance or a disk.

A completed snapshot never changes, which makes it the best source: nothing is frozen, and nothing can be written to
meanwhile. Only the blocks that were ever written are listed and read; everything else is a hole. The requests are made
on the event loop that opened it; its calls block, like those of all volumes, and must not be made on that loop.
"""

from __future__ import annotations

import asyncio
import os
import stat
from bisect import bisect_right
from collections.abc import Coroutine, Iterator, Sequence
from concurrent.futures import CancelledError
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from amistream.errors import AmistreamError, RefusedError, SourceError
from amistream.flow.retry import RetryPolicy, with_retries
from amistream.ports.snapshots import BLOCK, Snapshot, SnapshotReader, SnapshotState
from amistream.ports.volume import Kind
from amistream.source.file import too_large
from amistream.source.snapshot_blocks import KEPT, BlockFetcher, Window
from amistream.values import GIB, MIB, Extent

READ_AHEAD = 16 * MIB
"""The reading stage announces so much: more in flight would not be used."""

_T = TypeVar("_T")


def most_gets(puts: int) -> int:
    """Blocks that are got at once, given the setting `puts`."""
    return min(puts, READ_AHEAD // BLOCK)


def snapshot_memory(puts: int) -> int:
    """Bytes of memory that a snapshot takes while it is read."""
    return (most_gets(puts) + KEPT + 1) * BLOCK


class SnapshotVolume:
    """The blocks of a snapshot, in `runs` of indices, ascending."""

    def __init__(self, snapshot: Snapshot, runs: Sequence[range], fetcher: BlockFetcher, gets: int) -> None:
        """To be made on the loop on which the requests are made."""
        started = snapshot.started_at or datetime.now(UTC)
        self.path = Path(snapshot.id)
        self.kind = Kind.SNAPSHOT
        self.size = snapshot.volume_gib * GIB
        self.mtime = max(0, int(started.timestamp()))
        # That of a file which nothing is mounted from.
        self.identity = os.stat_result((stat.S_IFREG | 0o400, 0, 0, 1, 0, 0, self.size, *[self.mtime] * 3))
        self._runs = runs
        self._firsts = [run.start for run in runs]
        self._window = Window(fetcher.get, gets)
        self._loop = asyncio.get_running_loop()
        self._last: tuple[int, bytes] = (-1, b"")
        """The block that was read last: file systems are looked at in small pieces."""
        self._interrupted = False

    def read_into(self, offset: int, buffer: memoryview) -> bool:
        done = 0
        while done < len(buffer):
            index, inside = divmod(offset + done, BLOCK)
            count = min(BLOCK - inside, len(buffer) - done)
            data = self._block(index)
            buffer[done : done + count] = bytes(count) if data is None else memoryview(data)[inside : inside + count]
            done += count
        return False

    def will_need(self, offset: int, length: int) -> None:
        indices = [*self._stored(offset // BLOCK, -(-(offset + length) // BLOCK))]
        if indices and not self._interrupted:
            self._loop.call_soon_threadsafe(self._window.announce, indices)

    def extents(self) -> tuple[Extent, ...]:
        return tuple(Extent(offset=run.start * BLOCK, length=len(run) * BLOCK) for run in self._runs)

    def check_unchanged(self) -> None:
        """Do nothing: a completed snapshot never changes."""

    def interrupt(self) -> None:
        self._interrupted = True
        self._loop.call_soon_threadsafe(self._window.stop)

    def rewind(self) -> None:
        self._wait_for(self._window.clear())
        self._interrupted = False

    def close(self) -> None:
        self._interrupted = True
        self._wait_for(self._window.clear())

    def _block(self, index: int) -> bytes | None:
        """A block's bytes; None for one of zeros."""
        if next(self._stored(index, index + 1), None) is None:
            return None
        last, data = self._last
        if last != index:
            if self._interrupted:
                raise _interrupted(self.path)
            data = self._wait_for(self._window.block(index))
            self._last = (index, data)
        return data

    def _stored(self, first: int, stop: int) -> Iterator[int]:
        """The indices of blocks that are not zeros, from `first` on and before `stop`."""
        place = max(bisect_right(self._firsts, first) - 1, 0)
        for run in islice(self._runs, place, None):
            if run.start >= stop:
                return
            yield from range(max(run.start, first), min(run.stop, stop))

    def _wait_for(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Run on the loop, and wait on this thread. Raises `SourceError`."""
        try:
            return asyncio.run_coroutine_threadsafe(work, self._loop).result()
        except CancelledError:
            raise _interrupted(self.path) from None
        except SourceError:
            raise
        except AmistreamError as error:
            raise SourceError(**{**error.as_dict(), "field": "source"}) from error


async def open_snapshot(
    reader: SnapshotReader, snapshot_id: str, *, retry: RetryPolicy, puts: int, most: int | None = None
) -> SnapshotVolume:
    """Open a completed snapshot. `puts` is the setting; with more than `most` bytes the snapshot is refused.

    Raises `RefusedError` for a snapshot that cannot be read, and `StoreError` if the service fails.
    """
    snapshot = await with_retries(retry, f"look at {snapshot_id}", lambda _: reader.describe(snapshot_id))
    if snapshot is None:
        raise RefusedError(
            "source.missing",
            f"cannot bundle {snapshot_id}: there is no such snapshot in the region",
            hint="check the id and --region; `aws ec2 describe-snapshots --owner-ids self` lists the snapshots",
            field="source",
        )
    if snapshot.state is not SnapshotState.COMPLETED:
        reason = f": {snapshot.reason}" if snapshot.reason else ""
        pending = snapshot.state is SnapshotState.PENDING
        raise RefusedError(
            "source.unfinished",
            f"cannot bundle {snapshot_id}: its state is {snapshot.state}{reason}",
            hint=f"wait for it: aws ec2 wait snapshot-completed --snapshot-ids {snapshot_id}"
            if pending
            else "make another snapshot",
            field="source",
        )
    if most is not None and snapshot.volume_gib * GIB > most:
        raise too_large(Path(snapshot_id), snapshot.volume_gib * GIB, most)
    gets = most_gets(puts)
    fetcher = BlockFetcher(reader, snapshot_id, retry=retry, gets=gets)
    return SnapshotVolume(snapshot, await _list_runs(fetcher), fetcher, gets)


async def _list_runs(fetcher: BlockFetcher) -> list[range]:
    """The indices of all blocks that the snapshot has."""
    runs: list[range] = []
    page = await fetcher.list_from(0)
    while True:
        for block in page.blocks:
            if runs and runs[-1].stop == block.index:
                runs[-1] = range(runs[-1].start, block.index + 1)
            else:
                runs.append(range(block.index, block.index + 1))
        if not page.next_page:
            return runs
        page = await fetcher.page_after(page)


def _interrupted(path: Path) -> SourceError:
    return SourceError("source.interrupted", f"cannot read on from {path}: the job was stopped")
