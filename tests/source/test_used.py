"""The view of a volume's used blocks: zeros outside of them, where nothing is read."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from amistream.source.extents import join_extents
from amistream.source.used import UsedView
from amistream.stages.read import Read
from amistream.values import Extent

SIZE = 300_000
CONTENT = random.Random(14).randbytes(SIZE)


class Recorded:
    """A volume of `CONTENT` that records the ranges that were read or announced."""

    def __init__(self) -> None:
        self.size = SIZE
        self.touched: list[tuple[int, int]] = []

    def read_into(self, offset: int, buffer: memoryview) -> bool:
        self.touched.append((offset, offset + len(buffer)))
        buffer[:] = CONTENT[offset : offset + len(buffer)]
        return False

    def will_need(self, offset: int, length: int) -> None:
        self.touched.append((offset, offset + length))


@st.composite
def used_ranges(draw: st.DrawFn) -> tuple[Extent, ...]:
    bounds = sorted(draw(st.sets(st.integers(0, SIZE // 512), max_size=60)))
    pairs = zip(bounds[::2], bounds[1::2], strict=False)
    return tuple(Extent(offset=512 * start, length=512 * (end - start)) for start, end in pairs)


@given(used_ranges(), st.integers(700, 100_000))
def test_only_used_blocks_are_read(used: tuple[Extent, ...], block_size: int) -> None:
    """The joined extents come out with the used blocks, zeros between them, and no other byte was touched."""
    volume, wanted = Recorded(), bytearray(SIZE)
    for extent in used:
        wanted[extent.offset : extent.end] = CONTENT[extent.offset : extent.end]
    extents = join_extents(used, SIZE)
    reader, made, buffer, last = Read(UsedView(volume, used), extents), bytearray(), bytearray(b"x" * block_size), False
    while not last:
        data, last = reader.read(memoryview(buffer))
        made += data
        buffer[:] = b"x" * block_size
    assert made == b"".join(wanted[extent.offset : extent.end] for extent in extents)
    for start, end in volume.touched:
        assert any(extent.offset <= start and end <= extent.end for extent in used)
    assert {start for start, _ in volume.touched} >= {extent.offset for extent in used}
