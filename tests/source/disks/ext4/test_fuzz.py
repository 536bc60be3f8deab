"""A short round of the fuzz, which runs at any length: `python tests/source/disks/ext4/fuzz.py --count 10000`."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from source.disks.ext4.fuzz import SAFE, Change, Target, change_of, judge

if TYPE_CHECKING:
    from source.disks.ext4.conftest import GetImage

CASES = 100


@pytest.mark.parametrize("variant", ["ext4, 1 KiB", "ext3", "no checksums"])
def test_no_change_of_a_byte_loses_a_block(image: GetImage, variant: str) -> None:
    """A changed byte of metadata is doubted or makes no difference for the blocks that e2image finds in use."""
    target = Target.of(variant, image(variant))
    assert len(target.truth) > 200
    outcomes = [judge(target, change_of(target, random.Random(f"{variant} {number}"))) for number in range(CASES)]
    assert set(outcomes) == SAFE


def test_a_lost_block_is_noticed(image: GetImage) -> None:
    """The judgement finds the map that leaves out a block which is in use."""
    here = image("ext3")
    target = Target.of("ext3", here)
    same = Change(0, target.data[0])
    assert judge(target, same) == "mapped"
    target.truth |= {here.path.stat().st_size // here.block_size - 1}
    assert judge(target, same).startswith("lost block")
