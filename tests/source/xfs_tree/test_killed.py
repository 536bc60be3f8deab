"""SIGKILL of the process that copies a tree: no mount, no loop device and no file is left, at whatever moment."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from source.xfs_tree.images import SIZE, nothing_left
from support.mounts import small_disk

CODE = """
import sys
from pathlib import Path
from amistream.source.tree.opening import TreeWishes, open_tree

tree, scratch, size, moment = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
asked = 0

def stopped():
    global asked
    asked += 1
    if asked == moment:
        print("now", flush=True)
        sys.stdin.read()
    return False

open_tree(tree, TreeWishes(most=size, size=size, profile="xfs", scratch=scratch, stopped=stopped))
print("now", flush=True)
sys.stdin.read()
"""
WALKED = 12
"""Names of the tree: `stopped` is asked once for each when it is walked, and again when it is copied."""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    root.mkdir()
    for number in range(WALKED):
        (root / str(number)).write_bytes(b"x" * 100_000)
    return root


@pytest.mark.parametrize(
    "moment",
    [WALKED // 2, WALKED + 1, WALKED + 10, 1000],
    ids=["walk", "first_file", "later_file", "done"],
)
def test_killed(moment: int, tree: Path, scratch: Path) -> None:
    """Everything is gone once the process and its guard are."""
    words = [sys.executable, "-c", CODE, str(tree), str(scratch), str(SIZE), str(moment)]
    with small_disk(scratch, "200m"):
        process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        with process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"now\n"
            guards = [os.pidfd_open(int(pid)) for pid in children(process.pid)]
            assert bool(guards) is (WALKED < moment < 1000)
            process.send_signal(signal.SIGKILL)
        for guard in guards:
            assert select.select([guard], [], [], 30)[0]
            os.close(guard)
        found = os.statvfs(scratch)
        assert found.f_bfree == found.f_blocks
    assert nothing_left(scratch)


def children(pid: int) -> list[str]:
    return [each for task in Path(f"/proc/{pid}/task").glob("*/children") for each in task.read_text().split()]
