"""Part size x uploads at a time x compression over a simulated link, and whether `auto` finds its level."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path

from amistream.values import MIB
from benchmarks.bench import Bench, Options, Scenario
from benchmarks.inputs import SEED, warm
from benchmarks.jobs import JobSpec
from benchmarks.results import Column, Outcome
from benchmarks.sink_process import Sink, running_sink
from benchmarks.timing import alternate

LINK_BYTES_PER_S, CONNECTION_BYTES_PER_S = 250e6, 60e6
"""A small instance's link to S3, of which S3 gives 40 to 90 MB/s to one connection."""
PARTS_MIB = (5, 10, 20, 40)
CONCURRENCY = (1, 2, 4, 8)
COMPRESSION = ("fast", "balanced", "auto")
RIVALS = ("fast", "small", "auto")
LINKED, UNLIMITED = "on the link", "no limit"
AUTO_SLACK = 1.05
"""On an unlimited sink `auto` may take this many times as long as `fast`."""

COLUMNS = (
    Column("mb_per_s", "MB/s", ".0f"),
    Column("wall_s", "wall s"),
    Column("cpu_s", "CPU s"),
    Column("wall_ratio", "wall / the best"),
    Column("bundled_share", "bundled / size", ".3f"),
    Column("auto_ratio", "auto / this"),
)


def run(bench: Bench) -> Outcome:
    """Each round: the grid, shuffled, in one process; then `fast`, `small` and `auto` with and without the link."""
    options = bench.options
    small, large = bench.inputs.volume(options.tune_size), bench.inputs.volume(options.size)
    for volume in (small, large):
        warm(volume)
    outcome = Outcome(
        "tuning",
        COLUMNS,
        {
            "kind": bench.inputs.kind,
            "size": options.size,
            "grid_size": options.tune_size,
            "link_bytes_per_s": LINK_BYTES_PER_S,
            "connection_bytes_per_s": CONNECTION_BYTES_PER_S,
            "round_trip_s": options.round_trip_s,
        },
        notes=[_link_note(options)],
    )
    shuffle = random.Random(SEED)
    link = running_sink(
        bench.scratch,
        bytes_per_s=LINK_BYTES_PER_S,
        connection_bytes_per_s=CONNECTION_BYTES_PER_S,
        round_trip_s=options.round_trip_s,
    )
    with link as linked, running_sink(bench.scratch) as unlimited:
        variants: dict[str, Callable[[], dict[str, dict[str, float]]]] = {
            "grid": partial(_all, bench, linked, grid(bench, small, linked), shuffle),
            LINKED: partial(_all, bench, linked, _rivals(bench, large, linked, LINKED), shuffle),
            UNLIMITED: partial(_all, bench, unlimited, _rivals(bench, large, unlimited, UNLIMITED), shuffle),
        }
        for number, batches in enumerate(alternate(options.runs, variants), 1):
            bench.say(f"tuning: round {number} of {options.runs}")
            for rows in batches.values():
                _add(outcome, rows)
    for rival in RIVALS[:-1]:
        outcome.goal(f"auto over {rival}, time {LINKED}", f"{rival}, {LINKED}", "auto_ratio", 1.0)
    outcome.goal(f"auto over fast, time with {UNLIMITED}", f"fast, {UNLIMITED}", "auto_ratio", AUTO_SLACK)
    return outcome


def grid(bench: Bench, volume: Path, sink: Sink) -> dict[str, JobSpec]:
    """Every combination, by its row's name."""
    return {
        _point(part, uploads, compress): bench.jobs.sink(
            volume, sink, part_size=part * MIB, upload_concurrency=uploads, compress=compress
        )
        for compress, part, uploads in product(COMPRESSION, PARTS_MIB, CONCURRENCY)
    }


def _rivals(bench: Bench, volume: Path, sink: Sink, where: str) -> dict[str, JobSpec]:
    return {f"{compress}, {where}": bench.jobs.sink(volume, sink, compress=compress) for compress in RIVALS}


def _all(bench: Bench, sink: Sink, specs: dict[str, JobSpec], shuffle: random.Random) -> dict[str, dict[str, float]]:
    """Run the jobs in another order each time, so that none always follows the same; rows come back in order."""
    names = shuffle.sample(list(specs), len(specs))
    figures = dict(zip(names, bench.jobs.run_all([specs[name] for name in names], sink), strict=True))
    return {name: figures[name].row() for name in specs}


def _add(outcome: Outcome, rows: dict[str, dict[str, float]]) -> None:
    best = min(row["wall_s"] for row in rows.values())
    auto = next((row["wall_s"] for name, row in rows.items() if name.startswith("auto, ")), None)
    for name, row in rows.items():
        ratios = {"wall_ratio": row["wall_s"] / best}
        if auto is not None:
            ratios["auto_ratio"] = auto / row["wall_s"]
        outcome.add(name, {**row, **ratios})


def _link_note(options: Options) -> str:
    return (
        f"link: {LINK_BYTES_PER_S / 1e6:g} MB/s for all connections together, {CONNECTION_BYTES_PER_S / 1e6:g} MB/s "
        f"for each, {options.round_trip_s * 1e3:g} ms before each answer; simulated by the sink, over HTTP"
    )


def _point(part_mib: int, uploads: int, compress: str) -> str:
    return f"{compress} {part_mib} MiB x {uploads}"


SCENARIO = Scenario("tuning", "part size x uploads x compression over a simulated link; auto", "4 min", run)
