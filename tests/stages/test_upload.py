"""Upload: several parts at a time; the ledger's entry comes before the put, the buffer back after it."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable

import pytest

from amistream.errors import StoreError
from amistream.flow.buffers import Buffers
from amistream.flow.channel import BrokenError, Channel
from amistream.ports.store import whole_checksum
from amistream.stages.split import Part
from amistream.stages.upload import Ledger, MemoryLedger, Upload
from amistream.values import ChangedError, PartDigest, PartMark
from stages.memory_store import BeforePut, MemoryStore, at_once

SIZE = 8


def mark(index: int) -> PartMark:
    return PartMark(levels={index: 1})


class Book:
    """A ledger that records calls in order; `known` parts are stored already, `hold` may wait or raise."""

    def __init__(self, *known: int, hold: Callable[[int], Awaitable[None]] = at_once) -> None:
        self.lines: list[tuple[str, int]] = []
        self.sealed: dict[int, tuple[PartMark, str]] = {}
        self._known = known
        self._hold = hold

    async def seal(self, part: PartDigest, mark: PartMark, checksum: str) -> bool:
        await self._hold(part.index)
        self.lines.append(("sealed", part.index))
        self.sealed[part.index] = mark, checksum
        return part.index in self._known

    async def stored(self, part: PartDigest) -> None:
        self.lines.append(("stored", part.index))


class Scene:
    """Parts on their way to a store in memory."""

    def __init__(
        self,
        on_put: BeforePut = at_once,
        *,
        buffers: int = 4,
        ledger: Ledger | None = None,
        store: MemoryStore | None = None,
    ) -> None:
        self.store = store or MemoryStore(on_put)
        self.buffers = Buffers(count=buffers, size=SIZE)
        self.ledger = ledger or MemoryLedger()
        self.upload = Upload(self.store, prefix="image", buffers=self.buffers, ledger=self.ledger)
        self.parts = Channel[Part](100)

    def offer(self, count: int) -> None:
        """Put `count` parts into the channel and end it; enough buffers must be free."""
        for index in range(count):
            self.parts.send_nowait(self.part(index))
        self.parts.end()

    def part(self, index: int) -> Part:
        buffer = self.buffers.take()
        buffer[:] = b"%08d" % index
        data = memoryview(buffer)
        return Part(PartDigest(index=index, size=SIZE, sha1=hashlib.sha1(data).digest()), data, buffer, mark(index))

    async def run(self, concurrency: int = 2) -> None:
        await self.upload.run(self.parts, concurrency)


def stored(count: int) -> dict[str, bytes]:
    return {f"image.part.{index:02d}": b"%08d" % index for index in range(count)}


async def test_all_stored() -> None:
    """Every part is stored under its name and counted, and its buffer is back in the pool."""
    scene = Scene()
    scene.offer(4)
    await scene.run()
    assert scene.store.objects == stored(4)
    assert (scene.upload.parts_stored, scene.upload.bytes_stored, scene.upload.bytes_sent) == (4, 32, 32)
    assert scene.upload.busy_s > 0
    assert len({id(scene.buffers.take()) for _ in range(4)}) == 4


async def test_nothing() -> None:
    """A channel that ends at once is no error."""
    scene = Scene()
    scene.offer(0)
    await scene.run()
    assert scene.store.objects == {}


@pytest.mark.parametrize("concurrency", [1, 2, 4])
async def test_concurrency(concurrency: int) -> None:
    """Exactly as many parts are in flight as allowed."""
    enough = asyncio.Event()

    async def on_put(number: int) -> None:
        if number == concurrency - 1:
            enough.set()
        await enough.wait()

    scene = Scene(on_put)
    scene.offer(4)
    await scene.run(concurrency)
    assert scene.store.most_in_flight == concurrency


async def test_any_order() -> None:
    """A slow part does not delay the others."""
    others = asyncio.Event()

    async def on_put(number: int) -> None:
        if number == 0:
            await others.wait()
        if number == 3:
            others.set()

    scene = Scene(on_put)
    scene.offer(4)
    await scene.run()
    assert list(scene.store.objects)[-1] == "image.part.00"
    assert scene.store.objects == stored(4)


async def test_buffer_held_until_stored() -> None:
    """A buffer is not free before its part is stored."""
    entered, go = asyncio.Event(), asyncio.Event()

    async def on_put(number: int) -> None:
        del number
        entered.set()
        await go.wait()

    scene = Scene(on_put, buffers=1)
    scene.offer(1)
    task = asyncio.create_task(scene.run(1))
    await entered.wait()
    waiting = asyncio.create_task(asyncio.to_thread(scene.buffers.take))
    assert (await asyncio.wait({waiting}, timeout=0))[1] == {waiting}
    go.set()
    await task
    assert bytes(await waiting) == b"00000000"


async def test_failure_stops_the_others() -> None:
    """The first failure is raised, parts in flight are given up, and the channel is closed."""
    begun = asyncio.Event()

    async def on_put(number: int) -> None:
        if number == 0:
            begun.set()
            await asyncio.Event().wait()
        await begun.wait()
        raise StoreError("store.broken", "cannot store: broken")

    scene = Scene(on_put)
    for index in range(3):
        scene.parts.send_nowait(scene.part(index))
    with pytest.raises(ExceptionGroup) as caught:
        await scene.run()
    assert [str(error) for error in caught.value.exceptions] == ["cannot store: broken"]
    assert scene.store.in_flight == 0
    with pytest.raises(BrokenError):
        scene.parts.send_nowait(scene.part(3))


async def test_known_before_it_is_sent() -> None:
    """An interrupted put is in the ledger, for a removal, and a put that never began is not."""
    begun = asyncio.Event()

    async def on_put(number: int) -> None:
        if number == 1:
            begun.set()
            await asyncio.Event().wait()

    ledger = MemoryLedger()
    scene = Scene(on_put, ledger=ledger)
    scene.offer(3)
    task = asyncio.create_task(scene.run(1))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert scene.store.objects == stored(1)
    assert [part.index for part, _ in ledger.sent] == [0, 1]


async def test_entered_before_it_is_sent_and_again_when_it_is_safe() -> None:
    """A part is entered with mark and checksum before its put, and as stored after it."""
    book = Book()

    async def on_put(number: int) -> None:
        book.lines.append(("put", number))

    scene = Scene(on_put, ledger=book)
    scene.offer(3)
    await scene.run(1)
    assert book.lines == [(word, number) for number in range(3) for word in ("sealed", "put", "stored")]
    assert book.sealed == {
        number: (mark(number), whole_checksum(hashlib.sha1(b"%08d" % number).digest())) for number in range(3)
    }


@pytest.mark.parametrize("concurrency", [2, 4])
async def test_entered_in_order(concurrency: int) -> None:
    """Parts are entered in order, however long entries take, though stored in another order."""
    turns = iter((5, 0, 3, 1))

    async def hold(index: int) -> None:
        del index
        for _ in range(next(turns)):
            await asyncio.sleep(0)

    class SlowDigests(MemoryStore):
        """A store that takes longer for the checksum of an earlier part."""

        async def checksum(self, name: str, data: memoryview, sha1: bytes) -> str:
            for _ in range(10 - 2 * int(name[-1])):
                await asyncio.sleep(0)
            return await super().checksum(name, data, sha1)

    last_entered = asyncio.Event()

    async def on_put(number: int) -> None:
        if number == 0:
            await last_entered.wait()
        if number == 1:
            last_entered.set()

    book = Book(hold=hold)
    scene = Scene(ledger=book, store=SlowDigests(on_put))
    scene.offer(4)
    await scene.run(concurrency)
    assert [index for word, index in book.lines if word == "sealed"] == [0, 1, 2, 3]
    assert next(index for word, index in book.lines if word == "stored") != 0


async def test_entered_in_order_as_they_come() -> None:
    """Parts that come one by one, to waiting uploads, are entered in order too."""

    async def hold(index: int) -> None:
        for _ in range(7 * (index % 3)):
            await asyncio.sleep(0)

    book = Book(hold=hold)
    scene = Scene(buffers=12, ledger=book)
    running = asyncio.create_task(scene.run(4))
    for index in range(12):
        await scene.parts.send(scene.part(index))
        for _ in range(index % 4):
            await asyncio.sleep(0)
    scene.parts.end()
    await running
    assert [index for word, index in book.lines if word == "sealed"] == list(range(12))


async def test_what_is_stored_is_not_sent_again() -> None:
    """A part that the ledger knows as stored is counted but not sent, and its buffer is freed."""
    scene = Scene(ledger=Book(0, 2))
    scene.offer(4)
    await scene.run()
    assert sorted(scene.store.objects) == ["image.part.01", "image.part.03"]
    upload = scene.upload
    assert (upload.parts_stored, upload.bytes_stored, upload.bytes_sent) == (4, 4 * SIZE, 2 * SIZE)
    assert len({id(scene.buffers.take()) for _ in range(4)}) == 4


async def test_what_is_not_what_was_sent_is_never_sent() -> None:
    """A part that the ledger refuses is not put, nor any after it."""

    async def hold(index: int) -> None:
        if index == 1:
            raise ChangedError("part 1 is not what was sent before")

    book = Book(hold=hold)
    scene = Scene(ledger=book)
    scene.offer(4)
    with pytest.raises(ExceptionGroup) as caught:
        await scene.run(4)
    assert [str(error) for error in caught.value.exceptions] == ["part 1 is not what was sent before"]
    assert set(scene.store.objects) <= {"image.part.00"}
    assert book.lines[0] == ("sealed", 0)
    assert {index for _, index in book.lines} == {0}


async def test_a_failed_put_is_not_entered_as_stored() -> None:
    """A part that the store refused is not entered as stored."""

    async def on_put(number: int) -> None:
        if number == 1:
            raise StoreError("store.broken", "cannot store: broken")

    book = Book()
    scene = Scene(on_put, ledger=book)
    scene.offer(2)
    with pytest.raises(ExceptionGroup):
        await scene.run(1)
    assert book.lines == [("sealed", 0), ("stored", 0), ("sealed", 1)]
