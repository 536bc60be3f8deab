"""File systems that are a tenth full, with deleted files, against a dense volume of what their files hold.

Needs root, for loop mounts. Before it is timed, each image is bundled and unbundled once, and the result is proved.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from time import perf_counter

from amistream.source.disk_reader import reader_of
from amistream.source.disks.disk_map import map_disk
from amistream.source.file import open_volume
from amistream.values import MIB
from benchmarks.bench import Bench, Scenario
from benchmarks.file_systems import DELETED_FOR_KEPT, Place, make_image, prove
from benchmarks.jobs import Figures
from benchmarks.results import Column, Outcome
from benchmarks.sink_process import running_sink
from benchmarks.timing import BenchmarkError, alternate

LONGER = 2
"""Factor on --size: bytes of files in each volume."""
TIMES = 10
"""The size of each volume, against its files."""
GAP = 16 * MIB
DENSE = "dense"
MOST_TIME = 1.2

COLUMNS = (
    Column("wall_s", "wall s"),
    Column("wall_ratio", "wall / dense"),
    Column("cpu_s", "CPU s"),
    Column("cpu_ratio", "CPU / dense"),
    Column("read_mib", "read MiB", ".0f"),
    Column("map_s", "map s", ".3f"),
    Column("peak_rss_mib", "peak RSS MiB", ".0f"),
)


def run(bench: Bench) -> Outcome:
    """Each round: the dense volume, and each of the file systems."""
    if os.geteuid() != 0:
        raise BenchmarkError("`used` makes file systems by loop mounts: run it as root")
    kept = bench.options.size * LONGER
    content, size = bench.inputs.volume(kept), kept * TIMES
    places = _places(kept, size)
    outcome = Outcome(
        "used",
        COLUMNS,
        {"kind": bench.inputs.kind, "kept": kept, "deleted": DELETED_FOR_KEPT * kept, "size": size},
        notes=[
            (
                "whole jobs to a local sink, from the page cache; each image came back without the deleted data, clean "
                "by e2fsck -fn or xfs_repair -n, and with every file as it was"
            )
        ],
    )
    volumes = {DENSE: content}
    for name, inside in places.items():
        bench.say(f"used: making {name}")
        make = partial(make_image, size=size, places=inside, content=content, table=len(inside) > 1)
        volumes[name] = bench.inputs.made(f"{bench.inputs.kind}-{kept}-used-{name}", 4 * kept, make)
        bench.say(f"used: proving {name}")
        _prove(bench, name, volumes[name], inside, content)
    with running_sink(bench.scratch) as sink:
        variants: dict[str, Callable[[], Figures]] = {
            name: partial(bench.jobs.run, bench.jobs.sink(volume, sink), sink) for name, volume in volumes.items()
        }
        maps = {name: _map(volume) for name, volume in volumes.items()}
        for number, figures in enumerate(alternate(bench.options.runs, variants), 1):
            bench.say(f"used: round {number} of {bench.options.runs}")
            for name, measured in figures.items():
                dense = figures[DENSE]
                ratios = {"wall_ratio": measured.wall_s / dense.wall_s, "cpu_ratio": measured.cpu_s / dense.cpu_s}
                outcome.add(name, {**measured.row(), **ratios, **maps[name]})
    for name in places:
        outcome.goal(f"{name}, time against dense", name, "wall_ratio", MOST_TIME)
    return outcome


def _places(kept: int, size: int) -> dict[str, list[Place]]:
    """The volumes by name: whole file systems, and a disk of two with a gap between them and an unknown partition."""
    half = (size - 4 * GAP) // 2 // MIB * MIB
    return {
        "ext4": [Place(kind="ext4", offset=0, size=size, first=0, kept=kept)],
        "ext4-preallocated": [Place(kind="ext4", offset=0, size=size, first=0, kept=kept, preallocated=kept)],
        "xfs": [Place(kind="xfs", offset=0, size=size, first=0, kept=kept)],
        "gpt": [
            Place(kind="ext4", offset=MIB, size=half, first=0, kept=kept // 2),
            Place(kind="xfs", offset=MIB + half + GAP, size=half, first=kept // 2, kept=kept // 2),
        ],
    }


def _prove(bench: Bench, name: str, volume: Path, places: list[Place], content: Path) -> None:
    """Bundle the volume into a directory, unbundle it, and prove the image. This warms the page cache, too."""
    bundle, image = bench.scratch / f"bundle-{name}", bench.scratch / "back.img"
    bench.jobs.unpack(volume, bundle=bundle, image=image)
    prove(image, places, content)
    image.unlink()


def _map(volume: Path) -> dict[str, float]:
    """The time of the map alone, and the bytes that it leaves to read."""
    with closing(open_volume(volume)) as opened:
        data, started = opened.extents(), perf_counter()
        disk = map_disk(reader_of(opened), opened.size)
        took = perf_counter() - started
        return {"map_s": took, "read_mib": sum(extent.length for extent in disk.used(data)) / MIB}


SCENARIO = Scenario("used", "file systems with free blocks against dense volumes", "6 min", run)
