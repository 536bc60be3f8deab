"""The way back, `verify --deep` and `unbundle`, against the sum of its primitives that was timed in the same round."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from amistream.values import GIB, MIB
from benchmarks import primitives_back
from benchmarks.bench import Bench, Scenario
from benchmarks.inputs import warm
from benchmarks.machine import cores
from benchmarks.results import Column, Outcome
from benchmarks.timing import alternate

LONGER = 2
"""Factor on --size, and four times that to see that memory is flat."""
GROWN = 4
SUM, SUM_WRITING = "the primitives, one thread", "the primitives and the write, one thread"
VERIFY, UNBUNDLE = "verify --deep", "unbundle"
VERIFY_GROWN = f"verify --deep, {GROWN} times as large"
MOST_WALL, MOST_GROWTH = 1.3, 1.1

COLUMNS = (
    Column("mb_per_s", "MB/s", ".0f"),
    Column("wall_s", "wall s"),
    Column("cpu_s", "CPU s"),
    Column("cpu_ratio", "CPU / sum"),
    Column("wall_ratio", "wall / least"),
    Column("peak_rss_mib", "peak RSS MiB", ".0f"),
)
NOTE = (
    "least wall: the primitives' CPU seconds divided by the cores, or, where it takes longer, the writing alone, which "
    "waits for the disk. Bundles in a directory, from the page cache; images written past it and synchronised."
)


def run(bench: Bench) -> Outcome:
    """Each round: the primitives without and with the write, and both commands."""
    size = bench.options.size * LONGER
    volume = bench.inputs.volume(size)
    stream, image = bench.scratch / "stream", bench.scratch / "image"
    warm(volume)
    primitives_back.make_stream(volume, stream)
    bundle = bench.scratch / "bundle"
    grown_volume, grown_bundle = bench.inputs.repeated(size, GROWN), bench.scratch / "bundle-grown"
    # Makes the bundles, so that what is measured is as in any round: making one leaves memory behind.
    bench.jobs.unpack(volume, bundle=bundle, image=None)
    bench.jobs.unpack(grown_volume, bundle=grown_bundle, image=None)
    outcome = Outcome("unpack", COLUMNS, {"kind": bench.inputs.kind, "size": size}, notes=[NOTE])
    variants: dict[str, Callable[[], dict[str, float]]] = {
        SUM: partial(_primitives, stream, None),
        SUM_WRITING: partial(_primitives, stream, image),
        VERIFY: partial(_unpack, bench, volume, bundle, None),
        UNBUNDLE: partial(_unpack, bench, volume, bundle, image),
    }
    for number, figures in enumerate(alternate(bench.options.runs, variants), 1):
        bench.say(f"unpack: round {number} of {bench.options.runs}")
        for name, yardstick in ((VERIFY, SUM), (UNBUNDLE, SUM_WRITING)):
            least = max(figures[yardstick]["cpu_s"] / cores(), figures[yardstick]["write_wall_s"])
            figures[name]["cpu_ratio"] = figures[name]["cpu_s"] / figures[yardstick]["cpu_s"]
            figures[name]["wall_ratio"] = figures[name]["wall_s"] / least
        for name, row in figures.items():
            outcome.add(name, row)
    grown = _unpack(bench, grown_volume, grown_bundle, None)
    outcome.add(VERIFY_GROWN, {**grown, "growth": grown["peak_rss_mib"] / outcome.median(VERIFY, "peak_rss_mib")})
    for name in (VERIFY, UNBUNDLE):
        outcome.goal(f"{name}, wall over the least", name, "wall_ratio", MOST_WALL)
    outcome.goal(f"peak RSS, {GROWN} times as large", VERIFY_GROWN, "growth", MOST_GROWTH)
    return outcome


def _primitives(stream: Path, image: Path | None) -> dict[str, float]:
    measured = primitives_back.measure_back(stream, image)
    return {
        "wall_s": measured.wall_s,
        "cpu_s": measured.cpu_s,
        "mb_per_s": measured.size_in / measured.wall_s / 1e6,
        "write_wall_s": measured.steps["write"].wall_s,
        **{f"{name}_cpu_s_per_gib": cost.cpu_s / measured.size_in * GIB for name, cost in measured.steps.items()},
    }


def _unpack(bench: Bench, volume: Path, bundle: Path, image: Path | None) -> dict[str, float]:
    figures = bench.jobs.unpack(volume, bundle=bundle, image=image)
    if image:
        image.unlink()
    return {
        "wall_s": figures.wall_s,
        "cpu_s": figures.cpu_s,
        "mb_per_s": figures.size / figures.wall_s / 1e6,
        "peak_rss_mib": figures.peak_rss / MIB,
    }


SCENARIO = Scenario("unpack", "verify --deep and unbundle against their primitives", "2 min", run)
