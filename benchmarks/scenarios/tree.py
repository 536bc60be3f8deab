"""Directories as volumes: what the walk and the reading cost, the whole job, and the ways it is done elsewhere.

Needs root: the steps of ec2-bundle-vol mount an image. With --files, --tree and --size it can be made small.
"""

from __future__ import annotations

import os
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amistream.values import MIB
from benchmarks.bench import Bench, Scenario
from benchmarks.jobs import TreeFigures
from benchmarks.results import Column, Outcome
from benchmarks.sink_process import Sink, running_sink
from benchmarks.timing import BenchmarkError, run_shell
from benchmarks.trees import HALF, LEVELS, Measure, measure, one_large_file, small_files, warm

LONGER = 4
"""Factor on --size: bytes of the large file."""
MOST_MEMORY_MIB = 250
FILE_S = 30e-6
READING = 1.1
MOST_CPU = 1.3
LEAST_TIMES = 25

FLOOR = 'tar -cf - -C "$TREE" . | cat >/dev/null'
MKE2FS = 'truncate -s "$SIZE" image; mke2fs -q -F -t ext4 -d "$TREE" image'
# The order, the options and the pipeline of ec2-bundle-vol 1.5; the digest runs beside, through a named pipe, because
# the CPU seconds of `tee >(openssl sha1)` would be lost. As there, dot files at the top are not copied.
BUNDLE_VOL = """
dd if=/dev/zero of=image status=none bs=1M count=1 seek=$((SIZE / 1048576 - 1))
mkfs.ext4 -q -F image
tune2fs -i 0 image
sync -f image
mkdir mounted
mount -o loop image mounted
trap 'umount -d mounted' EXIT
{copy}
umount -d mounted
trap - EXIT
mkfifo archive
openssl dgst -sha1 <archive >archive.sha1 &
tar -chS --owner 0 --group 0 image | tee archive | gzip -9 |
    openssl enc -e -aes-128-cbc -K "$KEY" -iv "$IV" | split -b 10M -d -a 3 - part.
wait $!
for part in part.???; do openssl dgst -sha1 "$part" >>parts.sha1; done
"""
RSYNC = 'rsync -rlpgoD -t -r -S -l -X "$TREE"/* mounted'
COPY = 'cp -a "$TREE"/* mounted'

COLUMNS = (
    Column("wall_s", "wall s"),
    Column("cpu_s", "CPU s"),
    Column("us_per_inode", "CPU us/inode", ".1f"),
    Column("cpu_per_100k", "CPU s/100,000"),
    Column("peak_rss_mib", "peak RSS MiB", ".0f"),
    Column("wall_ratio", "wall / job"),
    Column("cpu_ratio", "CPU / job"),
    Column("floor_ratio", "CPU / floor"),
    Column("allowed_ratio", "CPU / allowed"),
    Column("dense_ratio", "CPU / dense"),
)
WALK, READ, SOURCE, FLOOR_ROW, JOB, DENSE, MKE2FS_ROW, OLD = (
    "pass one",
    "pass two",
    "source: both",
    "tar | cat, the floor",
    "job",
    "job of a dense image",
    "mke2fs -d",
    "ec2-bundle-vol's steps",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A tree, and how it is told apart in the table."""

    name: str
    root: Path
    size: Measure
    with_others: bool
    """Measure the ways of other tools, too."""


def run(bench: Bench) -> Outcome:
    """Each round: every tree in each way, one after the other."""
    if os.geteuid() != 0:
        raise BenchmarkError("`tree` mounts an image for the steps of ec2-bundle-vol: run it as root")
    copy = RSYNC if shutil.which("rsync") else COPY
    files = bench.options.tree_files
    small, large = small_files(bench.inputs, files), one_large_file(bench.inputs, bench.options.size * LONGER)
    cases = []
    for level in range(LEVELS):
        root = small.joinpath(*[HALF] * level)
        cases.append(_case(f"{files >> level} small files", root, with_others=level == 0))
    cases.append(_case("one large file", large))
    cases.append(_case(bench.options.tree.name, bench.options.tree))
    outcome = Outcome(
        "tree",
        COLUMNS,
        {each.name: {"inodes": each.size.inodes, "bytes": each.size.bytes_on_disk} for each in cases},
        notes=[
            (
                "from the page cache; pass one: walk and plan; pass two: read the image, look at each file again; "
                f"allowed: {FILE_S * 1e6:.0f} us an inode and {READING} times the floor; job: to a local sink, in a "
                "warmed process; dense: the same data as an image; the other tools only make a file or parts, and do "
                f"not upload; copied by {copy.split()[0]}"
            )
        ],
    )
    with running_sink(bench.scratch) as sink:
        for number in range(1, bench.options.runs + 1):
            for case in cases:
                bench.say(f"tree: round {number} of {bench.options.runs}, {case.name}")
                warm(case.root)
                for name, figures in _measured(bench, case, sink, copy).items():
                    outcome.add(f"{case.name}: {name}", figures)
    _goals(outcome, cases)
    return outcome


def _measured(bench: Bench, case: Case, sink: Sink, copy: str) -> dict[str, dict[str, float]]:
    """One round of a tree: the figures of each way."""
    rows = _reading(bench, case)
    if case.with_others:
        rows |= _others(bench, case, sink, copy)
        for row in rows.values():
            row["wall_ratio"] = row["wall_s"] / rows[JOB]["wall_s"]
            row["cpu_ratio"] = row["cpu_s"] / rows[JOB]["cpu_s"]
    for row in rows.values():
        row["us_per_inode"] = row["cpu_s"] / case.size.inodes * 1e6
        row["cpu_per_100k"] = row["cpu_s"] / case.size.inodes * 1e5
    return rows


def _reading(bench: Bench, case: Case) -> dict[str, dict[str, float]]:
    """The source alone, and the floor."""
    source = bench.jobs.tree(case.root, case.size.image_size)
    rows = {**_source_rows(source), FLOOR_ROW: _shell(bench, case, FLOOR, size=0)}
    floor_s = rows[FLOOR_ROW]["cpu_s"]
    both = rows[SOURCE]
    both["floor_ratio"] = both["cpu_s"] / floor_s
    both["allowed_ratio"] = both["cpu_s"] / (source.inodes * FILE_S + READING * floor_s)
    bench.say(f"tree: {case.name}: source {both['cpu_s']:.1f} s of CPU, the floor {floor_s:.1f} s")
    return rows


def _others(bench: Bench, case: Case, sink: Sink, copy: str) -> dict[str, dict[str, float]]:
    """The whole job, that of a dense image, and the ways of other tools."""
    image, size = bench.scratch / "dense.img", case.size.image_size
    wishes: dict[str, Any] = {"size": size, "partition": "none"}
    job = bench.jobs.run(bench.jobs.sink(case.root, sink, **wishes), sink).row()
    bench.jobs.tree(case.root, size, image=image)
    dense = bench.jobs.run(bench.jobs.sink(image, sink), sink).row()
    image.unlink()
    bench.say(f"tree: {case.name}: job {job['cpu_s']:.1f} s of CPU, dense {dense['cpu_s']:.1f} s")
    job["dense_ratio"] = job["cpu_s"] / dense["cpu_s"]
    old = _shell(bench, case, BUNDLE_VOL.format(copy=copy), size=case.size.copy_size)
    plain = _shell(bench, case, MKE2FS, size=size)
    return {JOB: job, DENSE: dense, MKE2FS_ROW: plain, OLD: old}


def _source_rows(source: TreeFigures) -> dict[str, dict[str, float]]:
    both = {"wall_s": source.walk_wall_s + source.read_wall_s, "cpu_s": source.walk_cpu_s + source.read_cpu_s}
    walk = {"wall_s": source.walk_wall_s, "cpu_s": source.walk_cpu_s, "peak_rss_mib": source.walk_rss / MIB}
    peak = source.peak_rss / MIB
    return {
        WALK: walk,
        READ: {"wall_s": source.read_wall_s, "cpu_s": source.read_cpu_s, "peak_rss_mib": peak},
        SOURCE: {**both, "peak_rss_mib": peak},
    }


def _shell(bench: Bench, case: Case, script: str, *, size: int) -> dict[str, float]:
    """Measure a script over the tree, in a directory of its own. `size`: bytes of the image that it makes."""
    environ = {
        "TREE": str(case.root),
        "SIZE": str(size),
        "KEY": secrets.token_hex(16),
        "IV": secrets.token_hex(16),
    }
    directory = bench.scratch / f"other-{secrets.token_hex(4)}"
    directory.mkdir()
    try:
        cost = run_shell(script, directory=directory, environ=environ)
    finally:
        shutil.rmtree(directory)
    return {"wall_s": cost.wall_s, "cpu_s": cost.cpu_s}


def _case(name: str, root: Path, *, with_others: bool = True) -> Case:
    return Case(name=name, root=root, size=measure(root), with_others=with_others)


def _goals(outcome: Outcome, cases: list[Case]) -> None:
    for case in cases:
        outcome.goal(f"{case.name}: CPU of the source over the allowed", f"{case.name}: {SOURCE}", "allowed_ratio", 1)
        if case.with_others:
            job = f"{case.name}: {JOB}"
            outcome.goal(f"{case.name}: peak RSS of the job, MiB", job, "peak_rss_mib", MOST_MEMORY_MIB)
    whole = cases[-1].name
    outcome.goal(f"{whole}: CPU of the job over a dense image's", f"{whole}: {JOB}", "dense_ratio", MOST_CPU)
    old = f"{whole}: {OLD}"
    outcome.goal(f"{whole}: times faster than {OLD}", old, "wall_ratio", LEAST_TIMES, at_least=True)


SCENARIO = Scenario(
    "tree", "directories: walk, reading, whole job; tar, mke2fs -d, ec2-bundle-vol's steps", "20 min", run
)
