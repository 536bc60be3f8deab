"""The lateness of the event loop, and so of other clients' answers, while the data path runs at full speed."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from benchmarks.bench import Bench, Scenario
from benchmarks.inputs import warm
from benchmarks.jobs import Figures, JobSpec, Lateness
from benchmarks.results import Column, Goal, Outcome
from benchmarks.sink_process import Sink, running_sink
from benchmarks.timing import BenchmarkError, alternate

IDLE = "idle, before the job"
NOTHING, SINK = "bundling into nothing", "bundling into the sink, HTTP"
P99_MS, MAX_MS = 5, 25

COLUMNS = (
    Column("p50_ms", "p50 ms"),
    Column("p99_ms", "p99 ms"),
    Column("max_ms", "worst ms"),
    Column("ticks", "ticks", ".0f"),
    Column("mb_per_s", "MB/s", ".0f"),
)


def run(bench: Bench) -> Outcome:
    """Each round: a job into nothing and one into the sink, with a timer that wants to go off every millisecond."""
    volume = bench.inputs.volume(bench.options.size)
    warm(volume)
    outcome = Outcome(
        "loop",
        COLUMNS,
        {"kind": bench.inputs.kind, "size": bench.options.size},
        notes=["how late a 1 ms timer goes off on the job's event loop; the goal for the worst is held by every run"],
    )
    with running_sink(bench.scratch) as sink:
        variants: dict[str, Callable[[], Figures]] = {
            NOTHING: partial(_job, bench, bench.jobs.nothing(volume), None),
            SINK: partial(_job, bench, bench.jobs.sink(volume, sink), sink),
        }
        for number, figures in enumerate(alternate(bench.options.runs, variants), 1):
            bench.say(f"loop: round {number} of {bench.options.runs}")
            outcome.add(IDLE, _row(figures[NOTHING].idle))
            for name, measured in figures.items():
                outcome.add(name, {**_row(measured.busy), "mb_per_s": measured.row()["mb_per_s"]})
    for name in variants:
        outcome.goal(f"{name}, p99 in ms", name, "p99_ms", P99_MS)
        worst = max(row["max_ms"] for row in outcome.rows[name].runs)
        outcome.goals.append(Goal(f"{name}, worst in ms", worst, MAX_MS))
    return outcome


def _job(bench: Bench, spec: JobSpec, sink: Sink | None) -> Figures:
    return bench.jobs.run(spec.model_copy(update={"ticker": True}), sink)


def _row(late: Lateness | None) -> dict[str, float]:
    if late is None:
        raise BenchmarkError("the child did not watch its event loop")
    return {
        "p50_ms": late.p50_s * 1e3,
        "p99_ms": late.p99_s * 1e3,
        "max_ms": late.max_s * 1e3,
        "ticks": late.ticks,
    }


SCENARIO = Scenario("loop", "how late the event loop is while bundling at full speed", "0.5 min", run)
