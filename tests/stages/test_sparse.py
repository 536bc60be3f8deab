"""The sparse archive: GNU tar and Python extract the volume with its holes, for any extents."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amistream.stages.archive import Archive, sparse_headers
from amistream.values import GIB, KIB, Extent
from stages.transform_check import carry

MTIME = 1_700_000_000


def extents_of(*pairs: tuple[int, int]) -> tuple[Extent, ...]:
    return tuple(Extent(offset=offset, length=length) for offset, length in pairs)


def archived(size: int, extents: Sequence[Extent], content: bytes) -> bytes:
    archive = Archive(name="image", size=size, mtime=MTIME, extents=extents)
    return carry(archive, [content])


def unpacked_by_tar(archive: bytes, directory: Path) -> Path:
    subprocess.run(["tar", "-xf", "-", "-C", directory], input=archive, check=True)
    return directory / "image"


@st.composite
def layouts(draw: st.DrawFn) -> tuple[int, tuple[Extent, ...]]:
    """A size, and extents on multiples of 512, the last of which may end with the volume."""
    bounds = sorted(draw(st.sets(st.integers(0, 400), max_size=120)))
    pairs = [(512 * a, 512 * (b - a)) for a, b in zip(bounds[::2], bounds[1::2], strict=False)]
    end = pairs[-1][0] + pairs[-1][1] if pairs else 0
    size = end + draw(st.integers(0, 5000))
    if draw(st.booleans()) and size > -(-end // 512) * 512:
        start = -(-end // 512) * 512
        pairs.append((start, size - start))
    return size, extents_of(*pairs)


@settings(deadline=None, max_examples=150)
@given(layouts())
def test_python_reads_any_layout(layout: tuple[int, tuple[Extent, ...]]) -> None:
    """Python's tarfile extracts exactly the volume, for any layout."""
    size, extents = layout
    content = os.urandom(sum(extent.length for extent in extents))
    volume = bytearray(size)
    source = io.BytesIO(content)
    for extent in extents:
        volume[extent.offset : extent.end] = source.read(extent.length)
    with tarfile.open(fileobj=io.BytesIO(archived(size, extents, content)), mode="r|") as tar:
        member = tar.next()
        assert member is not None
        assert (member.name, member.size, member.mtime) == ("image", size, MTIME)
        file = tar.extractfile(member)
        assert file is not None
        assert file.read() == volume
        assert tar.next() is None


@pytest.mark.parametrize(
    ("size", "pairs"),
    [
        (0, []),
        (10 * KIB, []),
        (10 * KIB, [(0, 10 * KIB)]),
        (10 * KIB + 7, [(0, 512), (10 * KIB, 7)]),
        (10 * KIB, [(512, 512)]),
        (100 * KIB, [(KIB * 2 * n, 512) for n in range(4)]),
        (100 * KIB, [(KIB * 2 * n, 512) for n in range(5)]),
        (100 * KIB, [(KIB * 2 * n, 512) for n in range(25)]),
        (100 * KIB, [(KIB * 2 * n, 512) for n in range(46)]),
        (9 * GIB, [(8 * GIB - 512, 1024), (9 * GIB - 512, 512)]),
        (9 * GIB, [(0, 512)]),
    ],
)
def test_gnu_tar_gives_the_volume_back(size: int, pairs: list[tuple[int, int]], tmp_path: Path) -> None:
    """GNU tar extracts the same size and bytes, and leaves the holes as holes."""
    extents = extents_of(*pairs)
    content = os.urandom(sum(extent.length for extent in extents))
    path = unpacked_by_tar(archived(size, extents, content), tmp_path)
    assert path.stat().st_size == size
    assert path.stat().st_blocks * 512 <= len(content) + len(extents) * 8192 + 16384
    with path.open("rb") as file:
        source = io.BytesIO(content)
        for extent in extents:
            file.seek(extent.offset)
            assert file.read(extent.length) == source.read(extent.length)


def test_the_map_is_the_one_that_gnu_tar_writes(tmp_path: Path) -> None:
    """GNU tar writes the same header and map for the same holes, byte for byte."""
    path = tmp_path / "image"
    size = 4 * 1024 * KIB
    extents = extents_of(*((64 * KIB * n, 4 * KIB) for n in range(60)))
    with path.open("wb") as file:
        file.truncate(size)
        for extent in extents:
            file.seek(extent.offset)
            file.write(b"x" * extent.length)
    owner = ["--owner=root:0", "--group=root:0", "--mode=0644", f"--mtime=@{MTIME}"]
    made = subprocess.run(
        ["tar", "--format=gnu", "--sparse", *owner, "-C", tmp_path, "-cf", "-", "image"],
        capture_output=True,
        check=True,
    ).stdout
    ours = sparse_headers(name="image", size=size, mtime=MTIME, extents=extents)
    assert made[: len(ours)] == ours
    assert made == archived(size, extents, b"x" * (60 * 4 * KIB))


@pytest.mark.parametrize(
    "pairs",
    [
        [(100, 512)],
        [(0, 100)],
        [(0, 0)],
        [(0, 1024), (512, 512)],
        [(1024, 512), (0, 512)],
        [(9728, 1024)],
    ],
)
def test_impossible_extents(pairs: list[tuple[int, int]]) -> None:
    """Extents that no reader accepts are refused."""
    with pytest.raises(ValueError, match="extent"):
        Archive(name="image", size=10240, mtime=MTIME, extents=extents_of(*pairs))


def test_eighteen_thousand_extents() -> None:
    """Python reads back a map of thousands of extents."""
    extents = extents_of(*((KIB * 64 * n, 512) for n in range(18_193)))
    size = extents[-1].end + 5
    with tarfile.open(fileobj=io.BytesIO(archived(size, extents, bytes(512 * 18_193))), mode="r|") as tar:
        member = tar.next()
        assert member is not None
        assert member.size == size
