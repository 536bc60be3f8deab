"""The blocks of earlier passes: each as it was entered last, ascending, in little memory."""

from __future__ import annotations

import hashlib
import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from amistream.stages.earlier import Earlier

INDICES = st.one_of(st.integers(0, 200), st.integers(0, 2**25), st.just(2**32 - 1))


def digest(number: int) -> bytes:
    return hashlib.sha256(bytes([number])).digest()


@given(st.lists(st.tuples(INDICES, st.one_of(st.none(), st.integers(0, 255)))))
def test_the_last_entry_counts(entries: list[tuple[int, int | None]]) -> None:
    """A block has what was entered last, and blocks come in ascending order."""
    earlier, expected = Earlier(), dict[int, bytes | None]()
    for index, number in entries:
        expected[index] = None if number is None else digest(number)
        if number is None:
            earlier.intend(index)
        else:
            earlier.store(index, digest(number))
    assert [*earlier] == sorted(expected.items())


def test_64_gib_are_small() -> None:
    """131,072 blocks take less than 40 bytes each."""
    tracemalloc.start()
    try:
        earlier = Earlier()
        for index in range(131_072):
            earlier.store(index, bytes(32))
        assert tracemalloc.get_traced_memory()[0] < 40 * 131_072
    finally:
        tracemalloc.stop()
