"""Sets of blocks in groups that are longer than one of the integers that hold them."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any, cast

import pytest

from amistream.source.disks.ext4.block_set import BlockSet, runs_of_bits
from amistream.source.disks.reading import DoubtError

FIRST, PER_GROUP, GROUPS = 1, 80_000, 3


def empty() -> BlockSet:
    fs = SimpleNamespace(
        first_block=FIRST, blocks_per_group=PER_GROUP, groups=GROUPS, blocks=FIRST + PER_GROUP * GROUPS - 5_000
    )
    return BlockSet(cast("Any", fs))


def blocks_of(found: BlockSet) -> set[int]:
    return {
        FIRST + number * PER_GROUP + place
        for number, bits in enumerate(found.by_group())
        for first, behind in runs_of_bits(bits)
        for place in range(first, behind)
    }


def test_runs() -> None:
    """The set holds exactly the blocks of all runs, over the ends of integers and groups."""
    source, found, expected = random.Random(14), empty(), set[int]()
    for length in (1, 8, 100, 32_768, 70_000, 90_000) * 2:
        start = source.randrange(FIRST, FIRST + PER_GROUP * GROUPS - 5_000 - length)
        found.add(start, length)
        expected.update(range(start, start + length))
    assert blocks_of(found) == expected


@pytest.mark.parametrize("start", [32_768, 32_769, 80_000, 80_001, 112_768])
def test_claims(start: int) -> None:
    """A block is claimed once, wherever an integer or a group ends."""
    found = empty()
    found.claim(start, 40_000)
    for block in (start, start + 39_999):
        with pytest.raises(DoubtError, match="two owners"):
            found.claim(block, 1)
    found.claim(start - 1, 1)
    found.claim(start + 40_000, 1)
    assert blocks_of(found) == set(range(start - 1, start + 40_001))
