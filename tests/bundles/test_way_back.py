"""The whole way back from parts to image: findings of parts and content, and memory."""

from __future__ import annotations

import asyncio
import base64
import os
import random
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest

from amistream.bundles.manifest import Manifest, parse_manifest
from amistream.bundles.meter import Meter
from amistream.bundles.parts import StoredPart
from amistream.bundles.survey import _hex
from amistream.bundles.way_back import Unpacked, Unpacking, compare
from amistream.errors import StoreError
from amistream.keys import BundleKey, Secret
from amistream.ports.target import Sink
from amistream.stages.back.unarchive import Piece
from amistream.stores.directory import DirectoryStore
from bundles.made import flip
from bundles.shell_bundle import IV, KEY, Faults, shell_bundle
from support.volumes import random_image

if TYPE_CHECKING:
    from support.keys import KeyRing

MIB = 1024 * 1024


class Kept:
    """A sink that keeps its data."""

    def __init__(self) -> None:
        self.content = bytearray()

    def gather(self, offset: int, data: memoryview) -> Iterator[Piece]:
        yield Piece(offset, data)

    def rest(self) -> Iterator[Piece]:
        yield from ()

    def write(self, gathered: Piece) -> None:
        self.content += bytes(gathered.offset - len(self.content))
        self.content += gathered.data

    def stop(self) -> None: ...


def stored_parts(directory: Path, manifest: Manifest) -> list[StoredPart]:
    return [StoredPart(part=part, size=(directory / part.filename).stat().st_size) for part in manifest.parts]


async def unpack(
    directory: Path, manifest: Manifest, parts: list[StoredPart], *, sink: Sink | None = None, complete: bool = True
) -> tuple[Unpacked, Meter]:
    meter = Meter()
    unpacking = unpacking_of(DirectoryStore(directory, token="none"), manifest, sink, meter)
    return await unpacking.run(parts, complete=complete), meter


def unpacking_of(
    store: DirectoryStore, manifest: Manifest, sink: Sink | None = None, meter: Meter | None = None
) -> Unpacking:
    key = BundleKey(Secret(bytes.fromhex(KEY)), Secret(bytes.fromhex(IV)))
    return Unpacking(store, manifest, key, sink, meter or Meter(), thorough=True, workers=2)


def read(path: Path) -> Manifest:
    return parse_manifest(path.read_bytes(), path.name)


@pytest.mark.parametrize("level", [1, 9])
async def test_a_long_stream_without_markers(level: int, key_ring: KeyRing, tmp_path: Path) -> None:
    """A stream of many ranges by gzip, which is inflated in one go, is restored."""
    image = tmp_path / "disk.img"
    image.write_bytes(base64.b64encode(random.Random(1).randbytes(9 * MIB)))
    path = shell_bundle(tmp_path / "bundle", image, key_ring, part_size=5 * MIB, level=level)
    manifest, sink = read(path), Kept()
    unpacked, meter = await unpack(path.parent, manifest, stored_parts(path.parent, manifest), sink=sink)
    assert unpacked.differences == ()
    assert sink.content == image.read_bytes()
    assert (meter.parts_done, meter.bytes_done) == (len(manifest.parts), manifest.bundled_size)


async def test_a_part_that_becomes_shorter(key_ring: KeyRing, tmp_path: Path) -> None:
    """A part that shrinks after its size was checked is reported."""
    path = shell_bundle(tmp_path / "bundle", random_image(tmp_path / "disk.img", 200_000), key_ring)
    manifest = read(path)
    parts = stored_parts(path.parent, manifest)
    os.truncate(path.parent / "image.part.01", 1000)
    unpacked, _ = await unpack(path.parent, manifest, parts)
    assert {("part.size", "image.part.01"), ("part.digest", "image.part.01")} <= {
        (each.what, each.part) for each in unpacked.differences
    }
    assert unpacked.content is None


async def test_digests_alone(key_ring: KeyRing, tmp_path: Path) -> None:
    """If parts are missing only digests are compared, and the content causes no findings."""
    path = shell_bundle(tmp_path / "bundle", random_image(tmp_path / "disk.img", 300_000), key_ring)
    manifest = read(path)
    flip(path.parent / "image.part.02")
    unpacked, meter = await unpack(path.parent, manifest, stored_parts(path.parent, manifest)[1:], complete=False)
    assert [(each.what, each.part) for each in unpacked.differences] == [("part.digest", "image.part.02")]
    assert (unpacked.content, meter.parts_done) == (None, len(manifest.parts) - 1)


async def test_more_than_the_manifest_tells(key_ring: KeyRing, tmp_path: Path) -> None:
    """Data beyond the manifest's image size is reported and not written."""
    image = random_image(tmp_path / "disk.img", 300_000)
    path = shell_bundle(tmp_path / "bundle", image, key_ring)
    manifest, sink = replace(read(path), size=100_000), Kept()
    unpacked, _ = await unpack(path.parent, manifest, stored_parts(path.parent, manifest), sink=sink)
    assert unpacked.content is not None
    assert [each.what for each in compare(manifest, unpacked.content)] == ["image.size"]
    assert sink.content == image.read_bytes()[:100_000]


class Held(DirectoryStore):
    """A directory that holds back all parts but the first, and then gives no bytes, or fails."""

    def __init__(self, directory: Path, failure: StoreError | None) -> None:
        super().__init__(directory, token="none")
        self.let_go = asyncio.Event()
        self._failure_after = failure

    async def read(self, name: str, start: int, length: int) -> bytes:
        if name.endswith(".00"):
            return await super().read(name, start, length)
        await self.let_go.wait()
        if self._failure_after is not None:
            raise self._failure_after
        return cast("bytes", None)


class FirstPartRead(Meter):
    """A meter that shows when a worker has taken all of the first part, and so waits for the second."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        super().__init__()

    def __setattr__(self, name: str, value: object) -> None:
        super().__setattr__(name, value)
        if (name, value) == ("parts_done", 1):
            self.reached.set()


class Behind(Kept):
    """A sink that takes no data before another worker waits for the second part."""

    def __init__(self, meter: FirstPartRead) -> None:
        super().__init__()
        self._meter = meter
        self.worker: Future[threading.Thread] = Future()
        """The worker that has the first data."""

    def gather(self, offset: int, data: memoryview) -> Iterator[Piece]:
        if not self.worker.done():
            self.worker.set_result(threading.current_thread())
        assert self._meter.reached.wait(60)
        yield from super().gather(offset, data)


def workers() -> int:
    return sum(thread.name.startswith("amistream-worker") for thread in threading.enumerate())


@pytest.mark.parametrize(
    ("end", "error"),
    [("the store fails", StoreError), ("a cancel", asyncio.CancelledError), ("the reading fails", TypeError)],
)
async def test_an_end_after_a_flaw_while_a_worker_waits(
    end: str, error: type[BaseException], key_ring: KeyRing, tmp_path: Path
) -> None:
    """Once the content is known to be invalid, a worker that waits for data is released at any end, with its cause."""
    image = random_image(tmp_path / "disk.img", 12 * MIB)
    # The one run that the first part holds is good at first, and has no valid header of a stored block later.
    flaw = Faults(gzip=lambda stream: stream[: 2 * MIB] + b"\xff" * 2**17 + stream[2 * MIB + 2**17 :])
    path = shell_bundle(tmp_path / "bundle", image, key_ring, part_size=6 * MIB, faults=flaw)
    failure = StoreError("store.broken", "cannot read: broken") if end == "the store fails" else None
    store, manifest, meter = Held(path.parent, failure), read(path), FirstPartRead()
    sink = Behind(meter)
    unpacking = unpacking_of(store, manifest, sink, meter)
    running = asyncio.create_task(unpacking.run(stored_parts(path.parent, manifest)))
    # One has the flaw in hand and ends; the other waits for the second part.
    with_the_flaw = await asyncio.wrap_future(sink.worker)
    await asyncio.to_thread(with_the_flaw.join, 60)
    assert meter.reached.is_set()
    assert workers() == 1
    if end == "a cancel":
        running.cancel()
    else:
        store.let_go.set()
    with pytest.raises(error):
        await running


def test_a_checksum_that_is_none() -> None:
    """A checksum of unknown form is shown unchanged."""
    assert (_hex("q83v"), _hex("no base64!")) == ("abcdef", "no base64!")
