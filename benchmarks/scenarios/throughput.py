"""Whole jobs against the sum of the primitives that was timed in the same round."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from amistream.values import GIB
from benchmarks import primitives
from benchmarks.bench import Bench, Scenario
from benchmarks.inputs import warm
from benchmarks.jobs import JobSpec
from benchmarks.machine import cores
from benchmarks.results import Column, Outcome
from benchmarks.sink_process import Sink, running_sink
from benchmarks.timing import alternate

COLUMNS = (
    Column("mb_per_s", "MB/s", ".0f"),
    Column("wall_s", "wall s"),
    Column("cpu_s", "CPU s"),
    Column("cpu_s_per_gib", "CPU s/GiB"),
    Column("cpu_ratio", "CPU / sum"),
    Column("wall_ratio", "wall / (sum/cores)"),
    Column("peak_rss_mib", "peak RSS MiB", ".0f"),
    Column("bundled_share", "bundled / size", ".3f"),
)
MOST_RSS_MIB = 200

SUM = "the primitives, one thread"
NOTHING, DIRECTORY, HTTP, HTTPS = "into nothing", "into a directory", "into the sink, HTTP", "into the sink, HTTPS"
TITLES = {"cpu_ratio": "CPU over the primitives' sum", "wall_ratio": "wall over their sum / cores"}
GOALS = (
    (NOTHING, "cpu_ratio", 1.08),
    (NOTHING, "wall_ratio", 1.15),
    (DIRECTORY, "cpu_ratio", 1.15),
    (HTTP, "cpu_ratio", 1.25),
    (HTTPS, "cpu_ratio", 1.45),
)

NOTE = (
    "sum: CPU seconds of read, SHA-1, isal level 1 with CRC-32, AES-128-CBC and SHA-1 of the parts, on one "
    "thread in the same round. Jobs: each in a warmed process of its own, whose start is not counted."
)


def run(bench: Bench) -> Outcome:
    """Each round: the primitives, and a job to each kind of destination."""
    volume = bench.inputs.volume(bench.options.size)
    warm(volume)
    outcome = Outcome(
        "throughput",
        COLUMNS,
        {"kind": bench.inputs.kind, "size": bench.options.size},
        notes=[NOTE],
    )
    with running_sink(bench.scratch) as http, running_sink(bench.scratch, https=True) as https:
        jobs: dict[str, tuple[Callable[[], JobSpec], Sink | None]] = {
            NOTHING: (partial(bench.jobs.nothing, volume), None),
            DIRECTORY: (partial(bench.jobs.directory, volume), None),
            HTTP: (partial(bench.jobs.sink, volume, http), http),
            HTTPS: (partial(bench.jobs.sink, volume, https), https),
        }
        before = {sink.url: sink.stats() for sink in (http, https)}
        variants: dict[str, Callable[[], dict[str, float]]] = {SUM: partial(_primitives, volume)}
        variants |= {name: partial(_job, bench, make, sink) for name, (make, sink) in jobs.items()}
        for number, figures in enumerate(alternate(bench.options.runs, variants), 1):
            bench.say(f"throughput: round {number} of {bench.options.runs}")
            least = figures[SUM]["cpu_s"]
            for name in jobs:
                figures[name]["cpu_ratio"] = figures[name]["cpu_s"] / least
                figures[name]["wall_ratio"] = figures[name]["wall_s"] / (least / cores())
            for name, row in figures.items():
                outcome.add(name, row)
        for name, sink in ((HTTP, http), (HTTPS, https)):
            now = sink.stats()
            used = (now["cpu_s"] - before[sink.url]["cpu_s"]) / now["object_bytes"] * GIB
            outcome.notes.append(f"{name}: the sink itself used {used:.2f} CPU s for each GiB that it was sent")
    for name, key, limit in GOALS:
        outcome.goal(f"{name}, {TITLES[key]}", name, key, limit)
    for name in jobs:
        outcome.goal(f"{name}, peak RSS in MiB", name, "peak_rss_mib", MOST_RSS_MIB)
    return outcome


def _job(bench: Bench, make: Callable[[], JobSpec], sink: Sink | None) -> dict[str, float]:
    return bench.jobs.run(make(), sink).row()


def _primitives(volume: Path) -> dict[str, float]:
    measured = primitives.measure(volume)
    steps = {f"{name}_cpu_s_per_gib": cost.cpu_s / measured.size_in * GIB for name, cost in measured.steps.items()}
    return {
        "wall_s": measured.wall_s,
        "cpu_s": measured.cpu_s,
        "mb_per_s": measured.size_in / measured.wall_s / 1e6,
        "cpu_s_per_gib": measured.cpu_s / measured.size_in * GIB,
        "bundled_share": measured.size_out / measured.size_in,
        **steps,
    }


SCENARIO = Scenario("throughput", "a whole job into nothing, a directory, S3 over HTTP and HTTPS", "1 min", run)
