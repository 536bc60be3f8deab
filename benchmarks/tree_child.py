"""Reads a tree as a volume, without a job, and reports: `python -m benchmarks.tree_child`.

Reads a `TreeSpec` as JSON from standard input, writes `TreeFigures`.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from time import perf_counter, process_time

from amistream.ports.volume import Volume
from amistream.source.tree.opening import TreeWishes, open_tree
from amistream.source.tree.report import MOVED
from amistream.values import KIB
from benchmarks.child import forget_peak, peak_rss
from benchmarks.jobs import LARGEST, TreeFigures, TreeSpec

_BLOCK = 512 * KIB


def read(spec: TreeSpec) -> TreeFigures:
    """Walk the tree, then read its image once from start to end and look at every file again."""
    forget_peak()
    wishes = TreeWishes(most=LARGEST, size=spec.size)
    cpu, wall = process_time(), perf_counter()
    volume = open_tree(Path(spec.source), wishes)
    walk_cpu, walk_wall = process_time() - cpu, perf_counter() - wall
    walk_rss = peak_rss()
    try:
        cpu, wall = process_time(), perf_counter()
        _copy(volume, spec.image)
        volume.check_unchanged()
        return TreeFigures(
            inodes=volume.inodes,
            data=sum(extent.length for extent in volume.extents()),
            moved=len(volume.report.paths(*MOVED)),
            walk_cpu_s=walk_cpu,
            walk_wall_s=walk_wall,
            walk_rss=walk_rss,
            read_cpu_s=process_time() - cpu,
            read_wall_s=perf_counter() - wall,
            peak_rss=peak_rss(),
        )
    finally:
        volume.close()


def _copy(volume: Volume, image: str | None) -> None:
    """Read all data, block by block as the data path does, and write it to the image if there is one."""
    buffer = memoryview(bytearray(_BLOCK))
    with ExitStack() as stack:
        file = stack.enter_context(Path(image).open("wb")) if image else None
        if file:
            file.truncate(volume.size)
        for extent in volume.extents():
            for start in range(extent.offset, extent.end, _BLOCK):
                block = buffer[: min(_BLOCK, extent.end - start)]
                volume.read_into(start, block)
                if file:
                    file.seek(start)
                    file.write(block)


if __name__ == "__main__":
    print(read(TreeSpec.model_validate_json(sys.stdin.read())).model_dump_json())
