"""Extents: found in files, joined over small gaps, without losing a byte."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from amistream.source.extents import ALIGNMENT, WORTHWHILE_GAP, find_data, join_extents
from amistream.values import MIB, Extent
from support.volumes import random_image, sparse_image

PAIRS = st.lists(st.tuples(st.integers(0, 300_000), st.integers(1, 200_000)), max_size=30)


@given(PAIRS, st.integers(0, 10_000))
def test_joining_loses_nothing(gaps_and_lengths: list[tuple[int, int]], rest: int) -> None:
    """Every byte of data stays inside an extent; extents are aligned, apart, and inside the volume."""
    found, position = [], 0
    for gap, length in gaps_and_lengths:
        found.append(Extent(offset=position + gap, length=length))
        position += gap + length
    size = position + rest
    joined = join_extents(found, size)
    for extent in found:
        assert any(each.offset <= extent.offset and extent.end <= each.end for each in joined)
    for extent in joined:
        assert extent.offset % ALIGNMENT == 0
        assert extent.end % ALIGNMENT == 0 or extent.end == size
        assert extent.length > 0
    for before, after in itertools.pairwise(joined):
        assert after.offset - before.end >= WORTHWHILE_GAP


def test_holes_of_a_file(tmp_path: Path) -> None:
    """The extents of a sparse file cover its data and little else."""
    written = [(0, 4096), (4 * MIB, 100_000), (63 * MIB, MIB)]
    image = sparse_image(tmp_path / "sparse.img", 64 * MIB, written)
    descriptor = os.open(image, os.O_RDONLY)
    try:
        extents = find_data(descriptor, 64 * MIB)
    finally:
        os.close(descriptor)
    assert [extent.offset for extent in extents] == [0, 4 * MIB, 63 * MIB]
    assert sum(extent.length for extent in extents) < 2 * MIB


def test_a_file_without_holes_and_one_without_data(tmp_path: Path) -> None:
    """A dense file is one extent, a hole is none."""
    dense = random_image(tmp_path / "dense.img", MIB + 5)
    hole = sparse_image(tmp_path / "hole.img", MIB, [])
    for image, wanted in ((dense, (Extent(offset=0, length=MIB + 5),)), (hole, ())):
        descriptor = os.open(image, os.O_RDONLY)
        try:
            assert find_data(descriptor, image.stat().st_size) == wanted
        finally:
            os.close(descriptor)
