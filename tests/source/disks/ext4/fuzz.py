"""Changes bytes in the metadata of file systems, one at a time, and compares the map with what was used before.

    python tests/source/disks/ext4/fuzz.py --count 10000 --seed 1

A change is damage, so the truth is that of the undamaged image: the blocks that `e2image` finds by its walk over all
inodes, without a look at a bitmap. Either nothing is left out (`DoubtError`), or all of them are in the map. With
`--believe`, no checksum is compared, as if a forger had made them right: then only the end counts. Every case follows
from seed and number, but for the times in the inodes.
"""

from __future__ import annotations

import argparse
import random
import resource
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from unittest.mock import patch

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from amistream.source.disks.ext4.used import used_blocks
from amistream.source.disks.reading import DoubtError
from source.disks.ext4 import filled

if TYPE_CHECKING:
    from collections.abc import Iterator

    from source.disks.ext4.filled import Filled

VARIANTS = (
    "ext4, 4 KiB",
    "ext4, 1 KiB",
    "ext2",
    "ext3",
    "uninit_bg",
    "no checksums",
    "meta_bg",
    "bigalloc",
    "inline_data",
    "small groups",
)
SAFE = {"doubted", "mapped"}
LONGEST_SECONDS = 5.0
MOST_MEMORY = 32 << 20
"""Beyond what the images of all variants take."""


@dataclass
class Target:
    """An image in memory, and what must not be left out of its map."""

    variant: str
    data: bytearray
    block_size: int
    truth: frozenset[int]
    metadata: list[range]
    """Bytes that the map is made from: a change of any other cannot make a difference."""

    @classmethod
    def of(cls, variant: str, here: Filled) -> Target:
        found = cls(variant, bytearray(here.path.read_bytes()), here.block_size, _kept_by_walk(here), [])
        used_blocks(found.read_and_note, len(found.data))
        return found

    def read(self, offset: int, length: int) -> bytes:
        assert 0 <= offset <= offset + length <= len(self.data), "the parser reads beyond the end"
        return bytes(self.data[offset : offset + length])

    def read_and_note(self, offset: int, length: int) -> bytes:
        self.metadata.append(range(offset, offset + length))
        return self.read(offset, length)


@dataclass(frozen=True)
class Change:
    place: int
    new: int


def _kept_by_walk(here: Filled) -> frozenset[int]:
    """The blocks with content in the copy that `e2image` makes, but for those that were never written."""
    copy = here.path.with_name(here.path.name + ".e2image")
    filled.run("e2image", "-ra", str(here.path), str(copy))
    empty = bytes(here.block_size)
    with copy.open("rb") as file:
        found = frozenset(n for n, block in enumerate(iter(lambda: file.read(here.block_size), b"")) if block != empty)
    copy.unlink()
    return found - here.unwritten - here.unused_tables


def change_of(target: Target, source: random.Random) -> Change:
    """Change one byte: half of the time one that is not zero, and half of the time one bit of it."""
    places: range | list[int] = source.choice(target.metadata)
    if source.random() < 0.5:
        places = [place for place in places if target.data[place]] or places
    place = source.choice(places)
    flipped = 1 << source.randrange(8) if source.random() < 0.5 else source.randrange(1, 256)
    return Change(place, target.data[place] ^ flipped)


def judge(target: Target, change: Change) -> str:
    """Make the map with that change, undo it, and name the outcome: doubted, mapped, or the first lost block."""
    old = target.data[change.place]
    target.data[change.place] = change.new
    try:
        found = used_blocks(target.read, len(target.data))
    except DoubtError:
        return "doubted"
    finally:
        target.data[change.place] = old
    end = found.size // target.block_size
    # The caller keeps the bytes behind the end of the file system.
    lost = {block for block in target.truth - filled.blocks_of(found, target.block_size) if block < end}
    return f"lost block {min(lost)}" if lost else "mapped"


def believe(stack: ExitStack) -> None:
    """Take every checksum for right."""
    here = "amistream.source.disks.ext4"
    for name in ("superblock._check_checksum", "groups._check_checksum", "inodes._check_checksum"):
        stack.enter_context(patch(f"{here}.{name}", lambda *_: None))
    stack.enter_context(patch(f"{here}.bitmaps._is_right", lambda *_: True))


def peak_memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def targets(folder: Path, variants: tuple[str, ...] = VARIANTS) -> Iterator[Target]:
    """Make the images, one after the other."""
    tree = filled.write_tree(folder / "tree")
    for variant in variants:
        yield Target.of(variant, filled.looked_at(filled.make(folder / "image", variant, tree)))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--believe", action="store_true", help="compare no checksum")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="amistream-ext4-") as folder:
        made = list(targets(Path(folder)))
    outcomes: Counter[tuple[str, str]] = Counter()
    lines = []
    longest, memory = 0.0, peak_memory()
    with ExitStack() as stack:
        if options.believe:
            believe(stack)
        for number in range(options.count):
            target = made[number % len(made)]
            change = change_of(target, random.Random(f"{options.seed} {number}"))
            begun = time.process_time()
            outcome = judge(target, change)
            longest = max(longest, time.process_time() - begun)
            outcomes[target.variant, outcome] += 1
            if outcome not in SAFE:
                lines.append(f"case {number}: {target.variant}: {change}: {outcome}")
    memory = peak_memory() - memory
    wrong = bool(lines) and not options.believe
    lines += [f"{variant:16} {outcome:8} {count}" for (variant, outcome), count in sorted(outcomes.items())]
    lines.append(
        f"seed {options.seed}: {options.count} cases, the longest {longest:.3f} s of CPU, {memory >> 20} MiB more"
    )
    sys.stdout.write("\n".join([*lines, ""]))
    return 1 if wrong or longest > LONGEST_SECONDS or memory > MOST_MEMORY else 0


if __name__ == "__main__":
    sys.exit(main())
