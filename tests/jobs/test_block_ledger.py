"""The count of stored blocks, which grows with the image, but hardly."""

from __future__ import annotations

import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from amistream.jobs.block_ledger import IndexSet


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 300))))
def test_counting(entries: list[tuple[bool, int]]) -> None:
    """An index counts once."""
    found, expected = IndexSet(), set[int]()
    for is_added, index in entries:
        (found.add if is_added else found.discard)(index)
        (expected.add if is_added else expected.discard)(index)
        assert found.count == len(expected)


def test_16_tib_are_small() -> None:
    """The blocks of 16 TiB take 4 MiB, where the last one is stored first, too."""
    tracemalloc.start()
    try:
        stored = IndexSet()
        for index in [2**25 - 1, *range(100_000)]:
            stored.add(index)
        assert stored.count == 100_001
        assert tracemalloc.get_traced_memory()[0] < 5 << 20
    finally:
        tracemalloc.stop()
