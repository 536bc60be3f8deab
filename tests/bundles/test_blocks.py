"""A bundle as the source of a conversion: the snapshot holds its image, and a bad image is never proved."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from amistream.aws.session import Aws
from amistream.bundles.blocks import BundleBlocks
from amistream.bundles.meter import Meter
from amistream.bundles.owner import find_owner
from amistream.bundles.place import find_bundle, open_place
from amistream.bundles.unlocked import Unlocked, unlock
from amistream.conversion import Conversion, ConversionPlan, Converted
from amistream.errors import AmistreamError, DifferenceError, RefusedError, StoreError
from amistream.flow.retry import RetryPolicy
from amistream.location import parse_manifest_address
from amistream.ports.snapshots import BLOCK
from bundles.made import engine_bundle, flip
from bundles.shell_bundle import Faults, Form, shell_bundle
from jobs.work import settings
from stages.memory_snapshot import MemorySnapshot
from support.passes import nothing_runs
from support.volumes import random_image, sparse_image

if TYPE_CHECKING:
    from support.keys import KeyRing

RETRY = RetryPolicy(attempts=1, base_s=0.0, cap_s=0.0, stall_s=30.0)
SIZE = 9 * BLOCK + 1000

# Relatively far apart, so that some blocks are not touched, and some in part.
EXTENTS = [(4096, 70_000), (2 * BLOCK - 4096, 8192), (5 * BLOCK, 3 * BLOCK)]


async def unlocked(manifest: Path, keys: KeyRing, tmp_path: Path) -> Unlocked:
    it = settings(tmp_path)
    folder, name = parse_manifest_address(str(manifest))
    async with Aws(it) as aws:
        bundle = await find_bundle(await open_place(folder, it, aws), name)
    return await unlock(bundle, find_owner(it, None, keys.user.key), Meter(), print)


async def convert(manifest: Path, keys: KeyRing, tmp_path: Path, snapshot: MemorySnapshot) -> Converted:
    """Convert a bundle; assert that nothing is left of the pass."""
    source = BundleBlocks(await unlocked(manifest, keys, tmp_path), Meter(), workers=2)
    made = Conversion(ConversionPlan(workers=2, puts=3), source, snapshot, "snap-1", retry=RETRY)
    assert source.share == 0.0
    try:
        converted = await asyncio.wait_for(made.run(), 60)
    finally:
        await nothing_runs()
    assert source.share == 1.0
    return converted


async def prove(manifest: Path, image: Path, keys: KeyRing, tmp_path: Path) -> Converted:
    snapshot = MemorySnapshot()
    converted = await convert(manifest, keys, tmp_path, snapshot)
    assert snapshot.image(converted.image_size) == image.read_bytes()
    assert (converted.blocks, converted.checksum) == (len(snapshot.blocks), snapshot.checksum())
    assert len(snapshot.puts) == converted.blocks_put == converted.blocks
    return converted


@pytest.mark.parametrize("size", [1, BLOCK - 1, BLOCK, BLOCK + 1, SIZE])
async def test_own_bundles(size: int, key_ring: KeyRing, tmp_path: Path) -> None:
    """A bundle of our own gives its image, whatever its size."""
    image = await engine_bundle(tmp_path / "bundle", key_ring, tmp_path, size=size)
    converted = await prove(tmp_path / "bundle" / "image.manifest.xml", image, key_ring, tmp_path)
    assert converted.image_size == size


@pytest.mark.parametrize(
    ("sparse", "form"), [(True, Form(quote="'")), (False, Form())], ids=["as Amazon's tools", "as euca2ools"]
)
async def test_bundles_of_older_tools(sparse: bool, form: Form, key_ring: KeyRing, tmp_path: Path) -> None:
    """Holes of a sparse archive are not read, zeros of a plain one are not sent."""
    image = sparse_image(tmp_path / "disk.img", SIZE, EXTENTS)
    manifest = shell_bundle(tmp_path / "bundle", image, key_ring, form=form, sparse=sparse)
    converted = await prove(manifest, image, key_ring, tmp_path)
    assert converted.blocks == 6
    assert converted.blocks_read == (6 if sparse else 10)


async def test_zeros_only(key_ring: KeyRing, tmp_path: Path) -> None:
    """A bundle of nothing but zeros makes an empty snapshot."""
    image = sparse_image(tmp_path / "disk.img", SIZE, [])
    manifest = shell_bundle(tmp_path / "bundle", image, key_ring)
    assert (await prove(manifest, image, key_ring, tmp_path)).blocks == 0


def flip_a_bit(manifest: Path) -> None:
    flip(manifest.parent / "image.part.30")


def lose(manifest: Path) -> None:
    (manifest.parent / "image.part.03").unlink()


def forge(manifest: Path) -> None:
    manifest.write_text(manifest.read_text().replace("<architecture>x86_64", "<architecture>i386"))


@pytest.mark.parametrize(
    ("damage", "code"),
    [(flip_a_bit, "bundle.part.digest"), (lose, "bundle.part.missing"), (forge, "bundle.signature.wrong")],
)
async def test_damage(damage: Callable[[Path], None], code: str, key_ring: KeyRing, tmp_path: Path) -> None:
    """A damaged bundle ends the conversion with the difference as its cause, as it ends `unbundle`."""
    image = random_image(tmp_path / "disk.img", SIZE)
    manifest = shell_bundle(tmp_path / "bundle", image, key_ring)
    damage(manifest)
    with pytest.raises(DifferenceError) as raised:
        await convert(manifest, key_ring, tmp_path, MemorySnapshot())
    assert raised.value.code == code


@pytest.mark.parametrize(
    ("faults", "code"),
    [
        (Faults(digest="ab" * 20), "image.digest"),
        (Faults(size=SIZE + 1), "image.size"),
        (Faults(size=SIZE - 4096), "image.size"),
        (Faults(gzip=lambda data: data[:-8] + b"\0\0\0\0" + data[-4:]), "gzip.crc"),
        (Faults(tar=lambda data: data[:100_000]), "tar.truncated"),
    ],
)
async def test_faults_inside(faults: Faults, code: str, key_ring: KeyRing, tmp_path: Path) -> None:
    """An image that is not the manifest's ends the conversion, though all parts are those of the manifest."""
    image = random_image(tmp_path / "disk.img", SIZE)
    manifest = shell_bundle(tmp_path / "bundle", image, key_ring, faults=faults)
    with pytest.raises(DifferenceError) as raised:
        await convert(manifest, key_ring, tmp_path, MemorySnapshot())
    assert raised.value.code == f"bundle.{code}"


async def test_a_foreign_key(key_ring: KeyRing, tmp_path: Path) -> None:
    """A bundle of another user is refused before any block is put."""
    image = random_image(tmp_path / "disk.img", 1000)
    manifest = shell_bundle(tmp_path / "bundle", image, key_ring)
    it = settings(tmp_path)
    folder, name = parse_manifest_address(str(manifest))
    async with Aws(it) as aws:
        bundle = await find_bundle(await open_place(folder, it, aws), name)
    with pytest.raises(RefusedError):
        await unlock(bundle, find_owner(it, None, key_ring.stranger.key), Meter(), print)


@pytest.mark.parametrize("cut", ["cancelled", "refused"])
async def test_the_end_of_the_other_side(cut: str, key_ring: KeyRing, tmp_path: Path) -> None:
    """When a put fails, or the job is cancelled, unpacking ends too, and the cause is that of the put."""
    image = random_image(tmp_path / "disk.img", 30 * BLOCK)
    manifest = shell_bundle(tmp_path / "bundle", image, key_ring, level=1, part_size=10 << 20)

    async def before(number: int, index: int) -> None:
        del index
        if number == 5 and cut == "refused":
            raise StoreError("store.denied", "cannot put: no permission")
        if number == 5:
            running.cancel()
            await asyncio.Event().wait()

    running = asyncio.ensure_future(convert(manifest, key_ring, tmp_path, MemorySnapshot(before=before)))
    await asyncio.wait([running])
    if cut == "cancelled":
        assert running.cancelled()
    else:
        assert isinstance(running.exception(), AmistreamError)
        assert "no permission" in str(running.exception())
