"""Gets the blocks of a completed EBS snapshot, those that are read next before they are asked for.

Everything here runs on one event loop. The tokens by which blocks are fetched expire after days, and are new in each
listing: they are listed when they are needed, a page at a time, and again when they are no longer valid.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import replace
from functools import partial
from time import monotonic
from typing import Any

from amistream.errors import (
    NoSnapshotError,
    NotVisibleError,
    SourceError,
    StaleTokenError,
    StalledError,
    StoreError,
    ThrottledError,
)
from amistream.flow.gate import Gate
from amistream.flow.retry import Alive, RetryPolicy, with_retries
from amistream.ports.snapshots import BlockPage, SnapshotReader, StoredBlock

LONGEST_GET_S = 20.0
"""An answer that never comes costs so long."""
KEPT = 4
"""Blocks that are kept after they were read: reads need not end where blocks do."""
_PAGES = 4
"""Pages whose tokens are kept: reads may alternate between places."""
_STALE_TRIES = 3
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.1, 5.0


class Tokens:
    """The tokens of a snapshot's blocks."""

    def __init__(self, list_from: Callable[[int], Awaitable[BlockPage]], what: str) -> None:
        """`list_from` gives the page of the blocks from an index on; `what` names the snapshot."""
        self._list_from = list_from
        self._what = what
        self._pages: deque[dict[int, StoredBlock]] = deque(maxlen=_PAGES)
        self._listing = asyncio.Lock()

    async def of(self, index: int) -> StoredBlock:
        """A token that is valid for some time. Raises `StoreError`, and `SourceError` for a block that is not there."""
        async with self._listing:
            found = self._known(index)
            if found is None:
                page = await self._list_from(index)
                self._pages.append({block.index: block for block in page.blocks})
                found = self._known(index)
        if found is None:
            raise SourceError(
                "source.changed",
                f"cannot read {self._what}: its listing no longer has block {index}",
                hint="a completed snapshot never changes: report it to AWS, or to the maker of the endpoint",
                field="source",
            )
        return found

    def drop(self, block: StoredBlock) -> None:
        """Forget a token that is no longer valid, with those of its page, which are as old."""
        for page in [page for page in self._pages if page.get(block.index) == block]:
            self._pages.remove(page)

    def _known(self, index: int) -> StoredBlock | None:
        return next((page[index] for page in self._pages if index in page), None)


class BlockFetcher:
    """Gets single blocks: repeated after failures, and slower when the service asks for it."""

    def __init__(self, reader: SnapshotReader, snapshot_id: str, *, retry: RetryPolicy, gets: int) -> None:
        self._reader = reader
        self._snapshot_id = snapshot_id
        self._list_retry = retry
        self._retry = replace(retry, stall_s=min(retry.stall_s, LONGEST_GET_S))
        self._patience_s = retry.stall_s
        self._gate = Gate(gets)
        self._last_success = monotonic()
        self._is_listed = False
        self._tokens = Tokens(self.list_from, snapshot_id)

    async def list_from(self, index: int) -> BlockPage:
        """The first page with blocks from `index` on; an empty one if there are none."""
        page = await self._list(lambda: self._reader.page(self._snapshot_id, start=index))
        while not page.blocks and page.next_page:
            page = await self.page_after(page)
        return page

    async def page_after(self, page: BlockPage) -> BlockPage:
        return await self._list(lambda: self._reader.page(self._snapshot_id, page=page.next_page))

    async def get(self, index: int) -> bytes:
        """Raises `StoreError` once repeats do not help."""
        started, entered = monotonic(), await self._gate.enter()
        try:
            for refusals in itertools.count():
                found = await self._get_once(index, partial(self._failed, entered))
                if isinstance(found, bytes):
                    self._last_success = monotonic()
                    self._gate.widen()
                    return found
                self._gate.narrow(entered)
                if monotonic() - max(self._last_success, started) > self._patience_s:
                    message = f"{found.message} (no block was given for {self._patience_s:g} s)"
                    raise found.permanent().reworded(message=message)
                most = min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2 ** min(refusals, 10))
                entered = await self._gate.come_back(random.uniform(0, most))  # noqa: S311 - not a secret
        finally:
            self._gate.leave()
        raise AssertionError("unreachable")

    def _failed(self, entered: float, error: StoreError) -> None:
        # A link that is too slow for so many gets stalls them all.
        if isinstance(error, StalledError):
            self._gate.narrow(entered)

    async def _get_once(self, index: int, failed: Callable[[StoreError], None]) -> bytes | ThrottledError:
        what = f"get block {index} of {self._snapshot_id}"
        for tries in itertools.count(1):
            block = await self._tokens.of(index)

            async def attempt(_: Alive, block: StoredBlock = block) -> bytes | ThrottledError:
                try:
                    return await self._reader.get(self._snapshot_id, block)
                except ThrottledError as refusal:
                    return refusal

            try:
                return await with_retries(self._retry, what, attempt, failed=failed)
            except StaleTokenError:
                self._tokens.drop(block)
                if tries == _STALE_TRIES:
                    raise
        raise AssertionError("unreachable")

    async def _list(self, ask: Callable[[], Awaitable[BlockPage]]) -> BlockPage:
        """Ask for a page. A snapshot that is complete since moments may not be listed yet: that is waited for."""
        started = monotonic()
        for waits in itertools.count():
            try:
                what = f"list the blocks of {self._snapshot_id}"
                page = await with_retries(self._list_retry, what, lambda _: ask())
            except (NoSnapshotError, NotVisibleError):
                if self._is_listed or monotonic() - started > self._patience_s:
                    raise
                await asyncio.sleep(min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2 ** min(waits, 10)))
            else:
                self._is_listed = True
                return page
        raise AssertionError("unreachable")


class Window:
    """The blocks that are read now and next: at most `size` in flight or waiting, and `KEPT` that were read.

    A block that is asked for without being announced is fetched at once, beyond `size`.
    """

    def __init__(self, get: Callable[[int], Coroutine[Any, Any, bytes]], size: int) -> None:
        self._get = get
        self._size = size
        self._fetches: dict[int, asyncio.Task[bytes]] = {}
        """Owned here: `clear` ends them all."""
        self._ended: list[asyncio.Task[bytes]] = []
        """Fetches that were cancelled."""
        self._read: OrderedDict[int, asyncio.Task[bytes]] = OrderedDict()
        self._announced: deque[int] = deque()
        self._is_stopped = False

    def announce(self, indices: Iterable[int]) -> None:
        """Begin to fetch these, in order, as soon as there is room."""
        if self._is_stopped:
            return
        self._announced.extend(indices)
        self._fill()

    async def block(self, index: int) -> bytes:
        """Raises what `get` raises; a later call tries again. Raises `CancelledError` once it is stopped."""
        if self._is_stopped:
            raise asyncio.CancelledError
        task = self._read.get(index) or self._fetches.get(index) or self._begin(index)
        try:
            # Others may wait for the same block.
            data = await asyncio.shield(task)
        except BaseException:
            if task.done():
                self._forget(index, task)
            raise
        self._fetches.pop(index, None)
        self._read[index] = task
        self._read.move_to_end(index)
        while len(self._read) > KEPT:
            self._read.popitem(last=False)
        self._fill()
        return data

    def stop(self) -> None:
        """Cancel every fetch, and forget all blocks and announcements, until `clear`. Those who wait are cancelled."""
        self._is_stopped = True
        self._ended += self._fetches.values()
        for task in self._ended:
            task.cancel()
        self._announced.clear()
        self._fetches.clear()
        self._read.clear()

    async def clear(self) -> None:
        """Stop, wait until every fetch has ended, and be ready again."""
        self.stop()
        ended, self._ended = self._ended, []
        # Also takes the failures of those that nobody asked for.
        await asyncio.gather(*ended, return_exceptions=True)
        self._is_stopped = False

    def _fill(self) -> None:
        while self._announced and len(self._fetches) < self._size:
            index = self._announced.popleft()
            if index not in self._fetches and index not in self._read:
                self._begin(index)

    def _begin(self, index: int) -> asyncio.Task[bytes]:
        self._fetches[index] = task = asyncio.get_running_loop().create_task(self._get(index))
        return task

    def _forget(self, index: int, task: asyncio.Task[bytes]) -> None:
        for places in (self._fetches, self._read):
            if places.get(index) is task:
                del places[index]
