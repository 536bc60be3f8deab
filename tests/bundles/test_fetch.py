"""Fetching: ranges in order, a bounded number ahead, and no request left open."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

import pytest

from amistream.bundles.fetch import NARROW, WIDE, Range, Window, fetch
from amistream.bundles.manifest import ManifestPart
from amistream.bundles.parts import StoredPart
from amistream.errors import StoreError

if TYPE_CHECKING:
    from amistream.ports.store import Store


class Reads:
    """A store of parts of zeros, which counts concurrent reads and ends them in reverse order."""

    def __init__(self, *, fails: tuple[str, int] | None = None) -> None:
        self.running = 0
        self.most = 0
        self.begun: list[tuple[str, int]] = []
        self._fails = fails

    async def read(self, name: str, start: int, length: int) -> bytes:
        self.begun.append((name, start))
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            for _ in range(20 - len(self.begun) % 20):
                await asyncio.sleep(0)
            if (name, start) == self._fails:
                raise StoreError("store.stalled", "cannot read: nothing moved")
            return bytes(length)
        finally:
            self.running -= 1


def part(number: int, size: int) -> StoredPart:
    return StoredPart(part=ManifestPart(index=number, filename=f"part.{number}", digest=""), size=size)


RANGE = WIDE.size
PARTS = [part(number, size) for number, size in enumerate([RANGE * 2 + 5, RANGE, 1, RANGE - 1, *[RANGE] * 20])]
RANGES = [("part.0", 0, RANGE), ("part.0", RANGE, RANGE), ("part.0", 2 * RANGE, 5), ("part.1", 0, RANGE)]


class Takes:
    def __init__(self, *, enough: int = 10_000) -> None:
        self.taken: list[tuple[str, int, int]] = []
        self._enough = enough

    async def __call__(self, each: Range, data: bytes) -> bool:
        assert len(data) == each.length
        self.taken.append((each.part.name, each.offset, each.length))
        await asyncio.sleep(0)
        return len(self.taken) < self._enough


async def test_in_order() -> None:
    """Ranges are passed on in order, however the replies arrive, with the allowed number ahead."""
    reads, takes = Reads(), Takes()
    assert await fetch(cast("Store", reads), PARTS, takes)
    assert takes.taken[:4] == RANGES
    assert [(name, offset) for name, offset, _ in takes.taken] == reads.begun
    assert len(reads.begun) == 26
    assert reads.most == WIDE.ahead


@pytest.mark.parametrize("window", [NARROW, Window(size=RANGE, ahead=1, queued=1)])
async def test_a_narrower_window(window: Window) -> None:
    """Sizes and numbers of ranges are those of the window."""
    reads, takes = Reads(), Takes()
    assert await fetch(cast("Store", reads), PARTS, takes, window)
    assert max(length for _, _, length in takes.taken) == window.size
    assert sum(length for _, _, length in takes.taken) == sum(each.size for each in PARTS)
    assert reads.most == window.ahead


async def test_enough() -> None:
    """When no more data is wanted, open reads end, and none begins."""
    reads, takes = Reads(), Takes(enough=3)
    assert not await fetch(cast("Store", reads), PARTS, takes)
    assert (len(takes.taken), reads.running) == (3, 0)
    assert len(reads.begun) <= 3 + WIDE.ahead


async def test_enough_at_the_very_end() -> None:
    """The answer to the last range counts, too."""
    assert not await fetch(cast("Store", Reads()), PARTS[:2], Takes(enough=4))


async def test_a_failed_read() -> None:
    """A read that fails for good ends all others and is the reported cause."""
    reads, takes = Reads(fails=("part.7", 0)), Takes()
    with pytest.raises(StoreError, match="nothing moved"):
        await fetch(cast("Store", reads), PARTS, takes)
    assert reads.running == 0


async def test_a_cancel() -> None:
    """A cancel ends every read."""
    reads = Reads()
    begun = asyncio.Event()

    async def hold(_each: Range, _data: bytes) -> bool:
        begun.set()
        await asyncio.Event().wait()
        return True

    work = asyncio.create_task(fetch(cast("Store", reads), PARTS, hold))
    await begun.wait()
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert reads.running == 0


async def test_nothing_to_fetch() -> None:
    """A bundle without parts gives no data."""
    assert await fetch(cast("Store", Reads()), [], Takes())
