"""Upload: several parts at a time, each buffer back when its part is stored, and each part's undo known before it."""

from __future__ import annotations

import asyncio
import hashlib

import anyio
import pytest

from amistream.errors import StoreError
from amistream.flow.buffers import Buffers
from amistream.flow.undo import Undo
from amistream.stages.split import Part
from amistream.stages.upload import Upload
from amistream.values import PartDigest
from stages.memory_store import BeforePut, MemoryStore, at_once

SIZE = 8


class Scene:
    """Parts on their way to a store in memory."""

    def __init__(self, on_put: BeforePut = at_once, *, buffers: int = 4) -> None:
        self.store = MemoryStore(on_put)
        self.buffers = Buffers(count=buffers, size=SIZE)
        self.undo = Undo()
        self.upload = Upload(self.store, prefix="image", buffers=self.buffers, undo=self.undo)
        self.send, self.receive = anyio.create_memory_object_stream[Part](100)

    def offer(self, count: int) -> None:
        """Put `count` parts into the channel and end it; there must be buffers for them."""
        with self.send:
            for index in range(count):
                self.send.send_nowait(self.part(index))

    def part(self, index: int) -> Part:
        buffer = self.buffers.take()
        buffer[:] = b"%08d" % index
        data = memoryview(buffer)
        return Part(PartDigest(index=index, size=SIZE, sha1=hashlib.sha1(data).digest()), data, buffer)

    async def run(self, concurrency: int = 2) -> None:
        await self.upload.run(self.receive, concurrency)


def stored(count: int) -> dict[str, bytes]:
    return {f"image.part.{index:02d}": b"%08d" % index for index in range(count)}


async def test_all_stored() -> None:
    """Every part is stored under its name, counted, and its buffer is back in the pool."""
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
    """As many parts are in flight as allowed, and no more."""
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
    """A part that takes long does not hold up the others."""
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
    """The first failure is raised, the parts in flight are given up, and the channel is closed to the sender."""
    begun = asyncio.Event()

    async def on_put(number: int) -> None:
        if number == 0:
            begun.set()
            await asyncio.Event().wait()
        await begun.wait()
        raise StoreError("store.broken", "cannot store: broken")

    scene = Scene(on_put)
    for index in range(3):
        scene.send.send_nowait(scene.part(index))
    with pytest.raises(ExceptionGroup) as caught:
        await scene.run()
    assert [str(error) for error in caught.value.exceptions] == ["cannot store: broken"]
    assert scene.store.in_flight == 0
    with pytest.raises(anyio.BrokenResourceError):
        scene.send.send_nowait(scene.part(3))
    scene.send.close()


async def test_undo_known_before() -> None:
    """A put that is given up in the middle is undone too, and what was never begun is not."""
    begun = asyncio.Event()

    async def on_put(number: int) -> None:
        if number == 1:
            begun.set()
            await asyncio.Event().wait()

    scene = Scene(on_put)
    scene.offer(3)
    task = asyncio.create_task(scene.run(1))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert scene.store.objects == stored(1)
    assert await scene.undo.run() == []
    assert scene.store.deleted == ["image.part.01", "image.part.00"]
    assert scene.store.objects == {}
