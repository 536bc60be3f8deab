"""THE way back: one pass over a bundle's stored parts to the bytes of the image. No data is kept on disk.

Parts are fetched a few ranges ahead (`bundles.fetch`). Each worker thread (`flow.relay`) takes one run at a time
through four steps, while the run is in its core's cache:

1. Hash and decrypt the next ranges, up to the end of a run.
2. Inflate the run separately, beside the other workers.
3. In the order of the stream, join the run to it.
4. Unpack the archive.

Only work that waits for the disk, or for another program, has its own thread.

A mismatch with the manifest becomes a `Difference`. A thorough pass then continues to find all differences; any other
ends after the current part, because that part's digest shows if it is the cause.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from typing import Any

from amistream.bundles.fetch import WIDE, Range, Window, fetch
from amistream.bundles.manifest import Manifest
from amistream.bundles.meter import Meter
from amistream.bundles.parts import StoredPart
from amistream.flow.buffers import BuffersClosedError
from amistream.flow.gather import task_group
from amistream.flow.priority import wake_promptly
from amistream.flow.relay import Ordered, Parallel, Relay
from amistream.flow.side_worker import BrokenError, Channel, SideWorker, StoppedError
from amistream.keys import BundleKey
from amistream.ports.store import Store
from amistream.ports.target import Sink
from amistream.reports import Difference
from amistream.stages.back.cut import Cut, Run
from amistream.stages.back.decrypt import SLICE, Decrypt
from amistream.stages.back.flaw import FlawError
from amistream.stages.back.inflate_runs import InflateRuns, TriedRun, inflate_apart
from amistream.stages.back.unarchive import Unarchive, Unarchived
from amistream.values import Buffer

MOST_WORKERS = 8
"""A fifth of the work is the archive's serial SHA-1: more would wait, each with a run of up to 12 MiB."""
PIECES = 3
"""Maximum pieces of the archive that wait for the hashing thread, and blocks of the image that wait to be written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unpacked:
    """Result of a pass. `content` is None if the stream did not end well."""

    content: Unarchived | None
    differences: tuple[Difference, ...]


class Unpacking:
    """One pass; used once."""

    def __init__(
        self,
        store: Store,
        manifest: Manifest,
        key: BundleKey,
        sink: Sink | None,
        meter: Meter,
        *,
        thorough: bool,
        workers: int | None = None,
        slots: AbstractContextManager[Any] | None = None,
        nice: int = 0,
        window: Window = WIDE,
    ) -> None:
        """`sink` None: the pass only checks. `workers`: `MOST_WORKERS` at most; None: one per core of this process.

        `slots` and `nice` as for `Relay`.
        """
        self._store = store
        self._window = window
        self._ranges: Channel[tuple[Range, bytes]] = Channel(window.queued)
        self._runs = _Runs(self._ranges, Decrypt(key=key.key.reveal(), iv=key.iv.reveal()), meter, thorough=thorough)
        self.workers = min(workers or len(os.sched_getaffinity(0)), MOST_WORKERS)
        self._inflate = InflateRuns()
        self._sha1 = hashlib.sha1(usedforsecurity=False)
        self._hashing = SideWorker(self._sha1.update, capacity=PIECES)
        self._archive = Unarchive(_Digest(self._sha1, self._hashing, self._inflate))
        self._writing = None if sink is None else SideWorker(sink.write, capacity=PIECES, release=sink.stop)
        self._relay = Relay(
            self._runs,
            (
                Parallel("inflate", self._inflate_run_if_worthwhile),
                Ordered("join", _Join(self._runs, self._inflate)),
                # SHA-1 over the whole tar is serial by nature.
                Ordered(
                    "archive",
                    self._archive if sink is None else _Gather(self._archive, sink, manifest.size),
                    same_turn=True,
                ),
            ),
            (lambda _: None) if self._writing is None else self._writing.put,
            block_size=0,
            release=self._release,
            slots=slots,
            nice=nice,
        )

    @property
    def busy_s(self) -> float:
        """Seconds of all workers so far: of CPU, and of waiting for the parts."""
        return sum(meter.busy_s for meter in (self._relay.read_meter, *self._relay.meters.values()))

    async def run(self, parts: Sequence[StoredPart], *, complete: bool = True) -> Unpacked:
        """Read the parts; unless `complete`, only for their digests. Raises `StoreError` and the errors of the sink."""
        wake_promptly()
        try:
            async with task_group() as group:
                content = group.create_task(self._content(group) if complete else self._digests(), name="content")
                try:
                    if await fetch(self._store, parts, self._queue_range, self._window):
                        self._ranges.end()
                except BaseException:
                    # No more data comes: wake all waiting workers.
                    self._ranges.break_off()
                    raise
        finally:
            self._ranges.break_off()
        return Unpacked(content=content.result(), differences=tuple(self._runs.differences))

    @property
    def _side_workers(self) -> list[SideWorker]:
        return [self._hashing] if self._writing is None else [self._hashing, self._writing]

    async def _content(self, group: asyncio.TaskGroup) -> Unarchived | None:
        """Give the facts of the archive, or None if it is invalid."""
        hashing = group.create_task(self._hashing.run(), name="hash")
        if self._writing is not None:
            group.create_task(self._writing.run(), name="write")
        try:
            await self._relay.run(self.workers)
        except FlawError as flaw:
            await self._digests()
            self._runs.differences.append(Difference(what=flaw.code, message=flaw.words))
            return None
        except (StoppedError, BuffersClosedError):
            # The cause is a part that differs, or the sink's failure.
            return None
        finally:
            for worker in self._side_workers:
                worker.end()
        await hashing
        return self._archive.result()

    async def _digests(self) -> None:
        """Hash the remaining parts, or the rest of the current part, without decrypting."""
        await asyncio.to_thread(self._runs.digest_rest)

    def _inflate_run_if_worthwhile(self, _: int, items: Sequence[Run]) -> TriedRun:
        (run,) = items
        if not run or not self._inflate.worthwhile:
            return TriedRun(run=run)
        return TriedRun(run=run, tried=True, apart=inflate_apart(run))

    def _release(self) -> None:
        """Wake the workers that wait for a range or for a side worker."""
        if not isinstance(self._relay.cause, FlawError):
            self._ranges.close()
        for worker in self._side_workers:
            worker.stop()

    async def _queue_range(self, fetched: Range, data: bytes) -> bool:
        # A cancel stops the channel, which frees the thread; nobody else uses the data.
        try:
            await asyncio.to_thread(self._ranges.put, (fetched, data))
        except BrokenError:
            return False
        return True


class _Runs:
    """The relay's source of runs: hashes the parts, decrypts, and cuts."""

    def __init__(self, ranges: Channel[tuple[Range, bytes]], decrypt: Decrypt, meter: Meter, *, thorough: bool) -> None:
        self._ranges = ranges
        self._decrypt = decrypt
        self._cut = Cut()
        self._meter = meter
        self._thorough = thorough
        self._sha1 = hashlib.sha1(usedforsecurity=False)
        self._digests_only = False
        self._to_end_of_part = False
        self._remaining_runs = self._produce_runs()
        self._error: Exception | None = None
        """The error that ended the reading; `digest_rest` raises it too."""
        self.differences: list[Difference] = []
        self.flaw: FlawError | None = None
        """A flaw behind the last run."""

    def read(self, _: memoryview) -> tuple[Run, bool]:
        """Give the next run, and True after the last, with an empty run. Raises `StoppedError`."""
        try:
            run = next(self._remaining_runs, None)
        except Exception as error:
            self._error = error
            raise
        return run or (), run is None

    def digest_rest(self) -> None:
        """Hash the remaining parts without decrypting them; unless thorough, only the rest of the current part."""
        self._digests_only = True
        self._to_end_of_part = not self._thorough
        try:
            with suppress(StoppedError):
                if self._error is not None:
                    raise self._error
                for _ in self._remaining_runs:
                    pass
        finally:
            self._ranges.close()

    def _produce_runs(self) -> Iterator[Run]:
        for each, data in self._ranges:
            view = memoryview(data)
            for start in range(0, len(view), SLICE):
                piece = view[start : start + SLICE]
                self._sha1.update(piece)
                if self._digests_only:
                    continue
                yield from self._runs_of(self._decrypt.feed(piece))
            self._account(each, len(data))
        if self._digests_only:
            return
        try:
            yield from self._runs_of(self._decrypt.finish())
        except FlawError as flaw:
            # `_cut` still holds earlier data, and a flaw in that would explain more.
            self.flaw = flaw
        yield from self._cut.finish()

    def _runs_of(self, plain: Iterator[Buffer]) -> Iterator[Run]:
        for each in plain:
            yield from self._cut.feed(each)

    def _account(self, each: Range, length: int) -> None:
        self._meter.bytes_done += length
        if length < each.length:
            self._differ(each.part, "part.size", str(each.part.size), str(each.offset + length), "it has shrunk")
        if not each.ends_part:
            return
        found, expected = self._sha1.hexdigest(), each.part.part.digest
        if found != expected:
            self._differ(
                each.part, "part.digest", expected, found, f"its SHA-1 is {found}, the manifest says {expected}"
            )
        self._sha1 = hashlib.sha1(usedforsecurity=False)
        self._meter.parts_done += 1
        if self._to_end_of_part or (self.differences and not self._thorough):
            self._ranges.close()

    def _differ(self, part: StoredPart, what: str, expected: str, found: str, why: str) -> None:
        self.differences.append(
            Difference(what=what, part=part.name, expected=expected, found=found, message=f"{part.name}: {why}")
        )


class _Join:
    """Joins the runs in order; after the last run it raises the flaw behind it."""

    def __init__(self, runs: _Runs, inflate: InflateRuns) -> None:
        self._runs = runs
        self._inflate = inflate

    def feed(self, item: TriedRun) -> Iterator[bytes]:
        if item.run:
            yield from self._inflate.feed(item)

    def finish(self) -> Iterator[bytes]:
        if self._runs.flaw is not None:
            raise self._runs.flaw
        yield from self._inflate.finish()

    def result(self) -> None:
        """Nothing: the archive's own figures say what the stream was."""


class _Digest:
    """The archive's SHA-1. The worker that unpacks a piece also hashes it, while the piece is in its core's cache.

    A stream without runs is inflated by one worker at a time, which is slowest: then a side worker hashes.
    """

    def __init__(self, sha1: Any, side_worker: SideWorker, inflate: InflateRuns) -> None:
        self._sha1 = sha1
        self._side_worker = side_worker
        self._inflate = inflate

    def update(self, data: memoryview) -> None:
        if self._inflate.worthwhile:
            self._sha1.update(data)
        else:
            self._side_worker.put(data)

    def digest(self) -> bytes:
        """The digest of all data; only at the end of the pass."""
        return bytes(self._sha1.digest())


class _Gather:
    """Unpacks the archive, and gathers the image's data for the sink."""

    def __init__(self, archive: Unarchive, sink: Sink, size: int) -> None:
        self._archive = archive
        self._sink = sink
        self._size = size

    def feed(self, data: Buffer) -> Iterator[Any]:
        for piece in self._archive.feed(data):
            # Data beyond the manifest's size is not part of the image; it is reported at the end.
            if piece.offset < self._size:
                yield from self._sink.gather(piece.offset, piece.data[: self._size - piece.offset])

    def finish(self) -> Iterator[Any]:
        yield from self._archive.finish()
        # An image of another size is not completed.
        if self._archive.image_size == self._size:
            yield from self._sink.rest()

    def result(self) -> Unarchived:
        return self._archive.result()


def compare(manifest: Manifest, content: Unarchived) -> Iterator[Difference]:
    """Compare the image and its archive with the manifest."""
    digest = content.archive.sha1.hex()
    if digest != manifest.digest:
        yield Difference(
            what="image.digest",
            expected=manifest.digest,
            found=digest,
            message=f"the SHA-1 of the archive is {digest}, the manifest says {manifest.digest}",
        )
    if content.image_size != manifest.size:
        yield Difference(
            what="image.size",
            expected=str(manifest.size),
            found=str(content.image_size),
            message=f"the image has {content.image_size} bytes, the manifest says {manifest.size}",
        )
