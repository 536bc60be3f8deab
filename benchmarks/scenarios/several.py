"""The cost of a second destination: compressed and encrypted once, sent twice."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from benchmarks.bench import Bench, Scenario
from benchmarks.inputs import warm
from benchmarks.jobs import JobSpec
from benchmarks.results import Column, Outcome
from benchmarks.sink_process import Sink, running_sink
from benchmarks.timing import alternate

COLUMNS = (
    Column("mb_per_s", "MB/s", ".0f"),
    Column("wall_s", "wall s"),
    Column("cpu_s", "CPU s"),
    Column("cpu_ratio", "CPU / one"),
    Column("peak_rss_mib", "peak RSS MiB", ".0f"),
)
MOST = 1.15


def run(bench: Bench) -> Outcome:
    """Each round: a job to one destination and one to two, in S3 over HTTP and HTTPS and in directories."""
    volume = bench.inputs.volume(bench.options.size)
    warm(volume)
    outcome = Outcome("several", COLUMNS, {"kind": bench.inputs.kind, "size": bench.options.size})
    with running_sink(bench.scratch) as http, running_sink(bench.scratch, https=True) as https:
        ones: dict[str, tuple[JobSpec, Sink | None]] = {
            "S3 over HTTP": (bench.jobs.sink(volume, http), http),
            "S3 over HTTPS": (bench.jobs.sink(volume, https), https),
            "directory": (bench.jobs.directory(volume), None),
        }
        variants: dict[str, Callable[[], dict[str, float]]] = {}
        for name, (spec, sink) in ones.items():
            variants[f"{name}, one"] = partial(_job, bench, spec, sink)
            variants[f"{name}, two"] = partial(_job, bench, spec.model_copy(update={"copies": 2}), sink)
        for number, figures in enumerate(alternate(bench.options.runs, variants), 1):
            bench.say(f"several: round {number} of {bench.options.runs}")
            for name in ones:
                figures[f"{name}, two"]["cpu_ratio"] = (
                    figures[f"{name}, two"]["cpu_s"] / figures[f"{name}, one"]["cpu_s"]
                )
            for name, row in figures.items():
                outcome.add(name, row)
    for name in ones:
        outcome.goal(f"{name}, CPU of two over one", f"{name}, two", "cpu_ratio", MOST)
    return outcome


def _job(bench: Bench, spec: JobSpec, sink: Sink | None) -> dict[str, float]:
    return bench.jobs.run(spec, sink).row()


SCENARIO = Scenario("several", "two destinations at once against one", "1 min", run)
