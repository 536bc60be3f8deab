"""The first bytes of a bundle's image are read without the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from amistream.bundles.beginning import BEGINNING, read_beginning
from amistream.bundles.meter import Meter
from amistream.bundles.owner import find_owner
from amistream.bundles.place import Place, find_bundle
from amistream.bundles.survey import survey
from amistream.location import DirectoryLocation
from amistream.stores.directory import DirectoryStore
from bundles.made import flip
from jobs.work import request, run, settings
from support.volumes import MIB, random_image, sparse_image

if TYPE_CHECKING:
    from pathlib import Path

    from support.keys import KeyRing


class CountingStore(DirectoryStore):
    """A directory that counts the bytes that are read of it."""

    read_so_far = 0

    async def read(self, name: str, offset: int, length: int) -> bytes:
        self.read_so_far += length
        return await super().read(name, offset, length)


async def beginning_of(
    image: Path, keys: KeyRing, tmp_path: Path, *, damaged: bool = False
) -> tuple[bytes | None, int]:
    """Bundle the image; return the first bytes as read of the bundle, and the bytes of parts that it took."""
    out = tmp_path / "out"
    job = await run(request(image, out, keys), settings(tmp_path))
    assert job.result is not None, job.error
    if damaged:
        flip(out / "image.part.00", 0)
    store = CountingStore(out, token="none")
    bundle = await find_bundle(Place(store=store, location=DirectoryLocation(out), region=""), "image.manifest.xml")
    key = find_owner(settings(tmp_path), keys.user.certificate, keys.user.key).open_key(bundle.manifest)
    parts = (await survey(bundle, Meter(), read=False)).parts
    store.read_so_far = 0
    return await read_beginning(bundle, key, parts), store.read_so_far


@pytest.mark.parametrize("size", [1, BEGINNING - 1, BEGINNING, 4 * MIB])
async def test_of_noise(size: int, key_ring: KeyRing, tmp_path: Path) -> None:
    """The bytes are those of the image, and no more than the first part is read for them."""
    image = random_image(tmp_path / "disk.img", size)
    found, taken = await beginning_of(image, key_ring, tmp_path)
    assert found == image.read_bytes()[:BEGINNING]
    assert taken <= 256 * 1024


@pytest.mark.parametrize("extents", [[], [(100_000, 5000)], [(4096, 100), (8192, 100), (2 * MIB, 9)]])
async def test_of_holes(extents: list[tuple[int, int]], key_ring: KeyRing, tmp_path: Path) -> None:
    """Holes at the beginning read as zeros."""
    image = sparse_image(tmp_path / "disk.img", 3 * MIB, extents)
    found, _ = await beginning_of(image, key_ring, tmp_path)
    assert found == image.read_bytes()[:BEGINNING]


async def test_of_damage(key_ring: KeyRing, tmp_path: Path) -> None:
    """A stream that is damaged there has no beginning: the pass over the whole reports it."""
    image = random_image(tmp_path / "disk.img", MIB)
    found, _ = await beginning_of(image, key_ring, tmp_path, damaged=True)
    assert found is None
