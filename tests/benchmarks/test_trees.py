"""Trees that the benchmarks make and measure."""

from __future__ import annotations

import subprocess
from pathlib import Path

from amistream.source.tree.opening import TreeWishes, open_tree
from benchmarks.inputs import Inputs
from benchmarks.jobs import LARGEST
from benchmarks.trees import HALF, measure, one_large_file, small_files


def files_in(root: Path) -> int:
    return sum(path.is_file() for path in root.rglob("*"))


def test_small_files(tmp_path: Path) -> None:
    """The folder `half` has half of the files, and its own half of those; a second call finds the same tree."""
    inputs = Inputs(tmp_path / "cache", "synthetic")
    root = small_files(inputs, 401)
    assert [files_in(root), files_in(root / HALF), files_in(root / HALF / HALF)] == [401, 200, 100]
    made = root.stat().st_ctime_ns
    assert small_files(inputs, 401).stat().st_ctime_ns == made


def test_measure(tmp_path: Path) -> None:
    """A tree is measured as `du` does it, hard links once, and an image of the size that follows has room for it."""
    inputs = Inputs(tmp_path / "cache", "synthetic")
    for root in (small_files(inputs, 250), one_large_file(inputs, 3 << 20)):
        file = next(path for path in root.rglob("*") if path.is_file())
        (root / "another-name").hardlink_to(file)
        size = measure(root)
        for option, value in (("--inodes", size.inodes), ("--block-size=1", size.bytes_on_disk)):
            said = subprocess.run(["du", "-s", option, root], capture_output=True, text=True, check=True).stdout
            assert int(said.split()[0]) == value
        open_tree(root, TreeWishes(most=LARGEST, size=size.image_size)).close()
