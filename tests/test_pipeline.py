"""The whole data path: tar, gzip and openssl accept the parts, and a failed pass leaves nothing behind."""

from __future__ import annotations

import asyncio
import os
import subprocess
import threading
import zlib
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from amistream.errors import SourceError, StoreError
from amistream.keys import BundleKey, Secret
from amistream.pipeline import BUFFERS_BEYOND_UPLOADS, Pipeline
from amistream.plan import Plan
from amistream.ports.store import Store
from amistream.ports.volume import Kind
from amistream.source.file import FileVolume, open_volume
from amistream.stages.level import level_number
from amistream.stores.directory import DirectoryStore
from amistream.values import Extent, Measured
from stages.memory_store import BeforePut, MemoryStore, at_once
from support.passes import IV, KEY, check_parts, decrypt, nothing_runs, unpack
from support.volumes import random_image, sparse_image

KIB = 1024
MIB = 1024 * KIB


def plan(  # every figure of a pass may be the point of a test
    *,
    part_size: int = 64 * KIB,
    block_size: int = 64 * KIB,
    workers: int = 2,
    level: int | None = 1,
    uploads: int = 3,
) -> Plan:
    return Plan(
        prefix="image",
        part_size=part_size,
        block_size=block_size,
        workers=workers,
        level=level,
        upload_concurrency=uploads,
    )


class Scene:
    """One pass from a file into a store, and the checks after its end."""

    def __init__(self, image: Path, store: Store, figures: Plan) -> None:
        self.volume = open_volume(image)
        self.plan = figures
        self.pipeline = Pipeline(figures, self.volume, store, BundleKey(Secret(KEY), Secret(IV)))

    async def run(self) -> Measured:
        try:
            return await self.pipeline.run()
        finally:
            self.volume.close()
            await nothing_runs()


def openssl(ciphertext: bytes) -> bytes:
    argv = ["openssl", "enc", "-d", "-aes-128-cbc", "-K", KEY.hex(), "-iv", IV.hex()]
    return subprocess.run(argv, input=ciphertext, capture_output=True, check=True).stdout


def check_by_programs(measured: Measured, ciphertext: bytes, image: Path) -> None:
    """Assert that openssl, gzip and tar make the image of the ciphertext, and agree with what was measured."""
    gzip = openssl(ciphertext)
    assert gzip == decrypt(ciphertext)
    assert measured.gzip.size_out == len(gzip)
    tar = subprocess.run(["gzip", "-dc"], input=gzip, capture_output=True, check=True).stdout
    digest = subprocess.run(["openssl", "sha1", "-r"], input=tar, capture_output=True, check=True).stdout
    assert digest.split()[0].decode() == measured.archive.sha1.hex()
    assert measured.archive.size == measured.gzip.size_in == len(tar)
    assert measured.gzip.crc32 == zlib.crc32(tar)
    listing = subprocess.run(["tar", "-tf", "-"], input=tar, capture_output=True, check=True).stdout
    assert listing == b"image\n"
    content = subprocess.run(["tar", "-xOf", "-"], input=tar, capture_output=True, check=True).stdout
    assert content == image.read_bytes()
    assert measured.image_size == len(content)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise, holes and an odd size."""
    path = tmp_path_factory.mktemp("image") / "image"
    return sparse_image(path, 1_300_001, [(0, 300_000), (700_000, 400_000)])


@pytest.mark.parametrize("level", ["fast", "balanced", "9"])
@pytest.mark.parametrize("workers", [1, 3])
async def test_into_a_directory(level: str, workers: int, image: Path, tmp_path: Path) -> None:
    """From the parts in a directory openssl, gzip and tar make the image."""
    store = DirectoryStore(tmp_path / "bundle", token="t0")
    await store.open()
    scene = Scene(image, store, plan(level=level_number(level), workers=workers))
    measured = await scene.run()
    objects = {path.name: path.read_bytes() for path in (tmp_path / "bundle").iterdir()}
    check_by_programs(measured, check_parts(measured, objects, 64 * KIB), image)


async def test_same_bytes_whatever_the_workers(image: Path) -> None:
    """The number of workers and of uploads changes no byte of any part."""
    stored = []
    for workers, uploads in ((1, 1), (2, 6), (5, 2)):
        store = MemoryStore()
        await Scene(image, store, plan(workers=workers, uploads=uploads)).run()
        stored.append(store.objects)
    assert stored[0] == stored[1] == stored[2]


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(
    size=st.integers(0, 40_000),
    block_size=st.integers(500, 20_000),
    part_kib=st.integers(1, 20),
    workers=st.integers(1, 4),
    uploads=st.integers(1, 4),
)
def test_any_figures(size: int, block_size: int, part_kib: int, workers: int, uploads: int, tmp_path: Path) -> None:
    """Any sizes of image, block and part, and any number of workers and uploads, yield the image again."""
    image = random_image(tmp_path / "image", size)
    store = MemoryStore()

    async def go() -> Measured:
        figures = plan(part_size=part_kib * KIB, block_size=block_size, workers=workers, uploads=uploads)
        return await Scene(image, store, figures).run()

    ciphertext = check_parts(asyncio.run(go()), store.objects, part_kib * KIB)
    assert unpack(ciphertext) == image.read_bytes()


async def bundled_size(image: Path) -> int:
    return (await Scene(image, MemoryStore(), plan()).run()).split.bundled_size


@pytest.mark.parametrize("parts", [1, 2, 4])
async def test_whole_parts(parts: int, tmp_path: Path) -> None:
    """Ciphertext that is an exact multiple of the part size makes that many parts and no empty one."""
    for size in range(100_000, 100_100):
        image = random_image(tmp_path / "image", size)
        total = await bundled_size(image)
        if total % parts == 0:
            break
    store = MemoryStore()
    measured = await Scene(image, store, plan(part_size=total // parts)).run()
    assert [part.size for part in measured.split.parts] == [total // parts] * parts
    assert unpack(check_parts(measured, store.objects, total // parts)) == image.read_bytes()


async def test_one_byte_more_than_a_part(image: Path) -> None:
    """A single byte beyond the last whole part is a part of its own."""
    total = await bundled_size(image)
    store = MemoryStore()
    measured = await Scene(image, store, plan(part_size=total - 1)).run()
    assert [part.size for part in measured.split.parts] == [total - 1, 1]
    assert unpack(check_parts(measured, store.objects, total - 1)) == image.read_bytes()


async def test_single_part(image: Path) -> None:
    """A part size larger than the bundle means one part, number 00."""
    store = MemoryStore()
    measured = await Scene(image, store, plan(part_size=4 * MIB)).run()
    assert list(store.objects) == ["image.part.00"]
    assert unpack(check_parts(measured, store.objects, 4 * MIB)) == image.read_bytes()


async def test_more_than_a_hundred_parts(image: Path) -> None:
    """From the hundredth on part numbers have three digits, and the parts are in order all the same."""
    store = MemoryStore()
    measured = await Scene(image, store, plan(part_size=5 * KIB)).run()
    assert len(measured.split.parts) > 101
    assert {"image.part.00", "image.part.99", "image.part.100", "image.part.101"} <= set(store.objects)
    assert unpack(check_parts(measured, store.objects, 5 * KIB)) == image.read_bytes()


async def test_empty_volume(tmp_path: Path) -> None:
    """A volume of no bytes makes a bundle of an empty image."""
    image = tmp_path / "image"
    image.touch()
    store = MemoryStore()
    measured = await Scene(image, store, plan()).run()
    assert unpack(check_parts(measured, store.objects, 64 * KIB)) == b""


async def test_any_order_of_uploads(image: Path) -> None:
    """Parts that are stored in another order than they were made are the same bundle."""
    later = asyncio.Event()

    async def on_put(number: int) -> None:
        if number == 0:
            await later.wait()
        if number == 2:
            later.set()

    store = MemoryStore(on_put)
    measured = await Scene(image, store, plan()).run()
    assert next(iter(store.objects)) != "image.part.00"
    assert unpack(check_parts(measured, store.objects, 64 * KIB)) == image.read_bytes()


async def test_meters(image: Path) -> None:
    """The stages' meters add up to the measured and stored bytes."""
    scene = Scene(image, MemoryStore(), plan())
    measured = await scene.run()
    relay, upload = scene.pipeline.relay, scene.pipeline.upload
    assert relay.read_meter.bytes_out == scene.pipeline.reader.offset == measured.image_size
    assert relay.meters["archive"].bytes_out == measured.archive.size
    assert relay.meters["join"].bytes_out == measured.gzip.size_out
    assert relay.meters["encrypt"].bytes_out == relay.meters["split"].bytes_out == measured.split.bundled_size
    # The header, the last block and the trailer come to what the blocks have.
    assert relay.meters["compress"].bytes_out == measured.gzip.size_out - 20
    assert upload.bytes_stored == upload.bytes_sent == measured.split.bundled_size
    assert upload.parts_stored == len(measured.split.parts)


def break_at(failing: int) -> BeforePut:
    async def on_put(number: int) -> None:
        if number == failing:
            raise StoreError("store.broken", f"cannot store part {number}: broken")

    return on_put


@pytest.mark.parametrize("uploads", [1, 2, 6])
@pytest.mark.parametrize("failing", [0, 1, 5, 9])
async def test_store_fails(failing: int, uploads: int, image: Path) -> None:
    """A store that fails for good raises its own error."""
    scene = Scene(image, MemoryStore(break_at(failing)), plan(uploads=uploads))
    with pytest.raises(StoreError, match=f"cannot store part {failing}: broken"):
        await scene.run()


async def test_name_taken(image: Path, tmp_path: Path) -> None:
    """Another bundle's part under one of our names stops the pass, and stays."""
    folder = tmp_path / "bundle"
    folder.mkdir()
    (folder / "image.part.04").write_bytes(b"another's")
    store = DirectoryStore(folder, token="t0")
    await store.open()
    scene = Scene(image, store, plan())
    with pytest.raises(StoreError) as caught:
        await scene.run()
    assert caught.value.code == "store.exists"
    assert (folder / "image.part.04").read_bytes() == b"another's"


@pytest.mark.parametrize("uploads", [1, 2, 6])
@pytest.mark.parametrize("step", [0, 1, 4, 8])
async def test_cancel(step: int, uploads: int, image: Path, tmp_path: Path) -> None:
    """A cancel while any part is being sent leaves no thread, no task and no file without a name."""
    folder = tmp_path / "bundle"
    begun = asyncio.Event()

    async def on_put(number: int) -> None:
        if number >= step:
            begun.set()
            await asyncio.Event().wait()

    class Watched(DirectoryStore):
        """A directory store that calls the test before each put."""

        puts = 0

        async def put(self, name: str, data: memoryview, sha1: bytes, on_bytes: Callable[[int], None]) -> None:
            self.puts += 1
            await on_put(self.puts - 1)
            await super().put(name, data, sha1, on_bytes)

    store = Watched(folder, token="t0")
    await store.open()
    scene = Scene(image, store, plan(uploads=uploads))
    task = asyncio.create_task(scene.run())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


async def test_cancel_at_once(image: Path) -> None:
    """A pass that is cancelled before it begins stores nothing."""
    store = MemoryStore()
    task = asyncio.create_task(Scene(image, store, plan()).run())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert store.objects == {}


async def held_until(event: asyncio.Event, action: Callable[[], None], number: int) -> None:
    """Change the source at the first put, then continue."""
    if number == 0:
        action()
        event.set()
    await event.wait()


@pytest.mark.parametrize("uploads", [1, 3])
async def test_source_shrinks(uploads: int, tmp_path: Path) -> None:
    """A source that is truncated while it is read raises the error."""
    image = random_image(tmp_path / "image", 2 * MIB)
    event = asyncio.Event()
    store = MemoryStore(lambda number: held_until(event, lambda: os.truncate(image, 100_000), number))
    scene = Scene(image, store, plan(workers=1, uploads=uploads))
    with pytest.raises(SourceError) as caught:
        await scene.run()
    assert caught.value.code == "source.shrunk"


async def test_source_changes(tmp_path: Path) -> None:
    """A source that was written to while it was read raises the error, although every part is stored."""
    image = random_image(tmp_path / "image", MIB)
    event = asyncio.Event()

    def write() -> None:
        with image.open("r+b") as file:
            file.write(b"changed")
        os.utime(image, ns=(0, image.stat().st_mtime_ns + 1))

    store = MemoryStore(lambda number: held_until(event, write, number))
    scene = Scene(image, store, plan())
    with pytest.raises(SourceError) as caught:
        await scene.run()
    assert caught.value.code == "source.changed"


class BreakingVolume:
    """A volume of noise whose disk fails when the test says so; made from the port alone."""

    def __init__(self, good_bytes: int, go: threading.Event) -> None:
        self.path = Path("/breaking")
        self.identity = Path("/dev/null").stat()
        self.kind = Kind.IMAGE_FILE
        self.size = 64 * MIB
        self.mtime = 0
        self._good_bytes = good_bytes
        self._go = go

    def read_into(self, offset: int, buffer: memoryview) -> bool:
        if offset + len(buffer) > self._good_bytes:
            assert self._go.wait(60)
            raise SourceError("source.read_error", "cannot read: the disk broke")
        buffer[:] = os.urandom(len(buffer))
        return False

    def interrupt(self) -> None:
        pass

    def rewind(self) -> None:
        pass

    def will_need(self, offset: int, length: int) -> None:
        """Nothing to prepare."""

    def extents(self) -> tuple[Extent, ...]:
        return (Extent(offset=0, length=self.size),)

    def check_unchanged(self) -> None:
        """It never changes."""

    def close(self) -> None:
        """It holds nothing."""


@pytest.mark.parametrize("uploads", [1, 2, 6])
async def test_disk_breaks_while_uploads_are_stuck(uploads: int) -> None:
    """A read error is raised at once, even if every upload is stuck and every buffer full."""
    full = threading.Event()

    async def on_put(number: int) -> None:
        del number
        await asyncio.Event().wait()

    most_parts = uploads + BUFFERS_BEYOND_UPLOADS
    # A block of noise makes a part and a little: the last good one finds no buffer more, or a channel that is full.
    volume = BreakingVolume(most_parts * 64 * KIB, full)
    pipeline = Pipeline(plan(uploads=uploads), volume, MemoryStore(on_put), BundleKey.generate())
    task = asyncio.create_task(pipeline.run())
    while len(pipeline.split.result().parts) < most_parts:  # noqa: ASYNC110 - the stages tell no one
        await asyncio.sleep(0)
    full.set()
    _, late = await asyncio.wait({task}, timeout=10)
    for each in late:
        each.cancel()
        await asyncio.wait(late)
    assert not late, "the error did not come through"
    with pytest.raises(SourceError, match="the disk broke"):
        task.result()
    await nothing_runs()


@pytest.mark.parametrize("uploads", [1, 3])
async def test_memory_is_bounded(uploads: int, tmp_path: Path) -> None:
    """A slow store leads to no more part buffers than the plan says, and all are reused."""
    image = random_image(tmp_path / "image", 3 * MIB)
    buffers: set[int] = set()

    class Watched(MemoryStore):
        """Records the buffers of the parts."""

        async def put(self, name: str, data: memoryview, sha1: bytes, on_bytes: Callable[[int], None]) -> None:
            buffers.add(id(data.obj))
            await super().put(name, data, sha1, on_bytes)

    store = Watched(at_once)
    measured = await Scene(image, store, plan(uploads=uploads, workers=3)).run()
    assert len(measured.split.parts) > 40
    assert len(buffers) <= uploads + BUFFERS_BEYOND_UPLOADS
    assert store.most_in_flight <= uploads


async def test_reading_waits_for_the_store(tmp_path: Path) -> None:
    """While no part can be stored, reading stops once the buffers and the workers are full."""
    image = random_image(tmp_path / "image", 16 * MIB)
    all_stuck = asyncio.Event()

    async def on_put(number: int) -> None:
        if number == 1:
            all_stuck.set()
        await asyncio.Event().wait()

    scene = Scene(image, MemoryStore(on_put), plan(uploads=2, workers=2))
    task = asyncio.create_task(scene.run())
    await all_stuck.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    # Four parts of noise, and a block in each worker's hands, with room for a cut that falls badly.
    assert scene.pipeline.reader.offset <= (4 + 2 + 1) * 64 * KIB


async def test_volume_stays_open(image: Path) -> None:
    """The pass leaves the volume open for its opener to close."""
    with closing(open_volume(image)) as volume:
        pipeline = Pipeline(plan(), volume, MemoryStore(), BundleKey.generate())
        await pipeline.run()
        assert isinstance(volume, FileVolume)
        volume.check_unchanged()
