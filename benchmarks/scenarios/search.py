"""The recommendations of `amistream tune`, from many settings in force, against a pass with every candidate."""

from __future__ import annotations

from typing import Any

from benchmarks.bench import Bench, Scenario
from benchmarks.inputs import warm
from benchmarks.results import Column, Outcome
from benchmarks.sink_process import running_sink

TUNED, GRID, TOGETHER = "tune", "a pass with each", "all runs of tune"
LEAST_RATE, LEAST_GOOD, MOST_TIME = 0.9, 0.9, 1.2

COLUMNS = (
    Column("wall_s", "wall s", ".1f"),
    Column("wall_ratio", "of the budget", ".2f"),
    Column("sent_mb", "sent, MB", ".0f"),
    Column("mb_per_s", "the grid's MB/s", ".1f"),
    Column("rate_ratio", "of the best", ".3f"),
    Column("good_share", f"runs over {LEAST_RATE:g}", ".2f"),
)


def run(bench: Bench) -> Outcome:
    """The grid once; then as many runs of `tune` as --runs says, each from another setting in force."""
    options = bench.options
    volume = bench.inputs.volume(options.size)
    warm(volume)
    link: dict[str, Any] = {
        "bytes_per_s": options.link_bytes_per_s,
        "connection_bytes_per_s": options.connection_bytes_per_s,
        "round_trip_s": options.round_trip_s,
    }
    outcome = Outcome(
        "search",
        COLUMNS,
        {"kind": bench.inputs.kind, "size": options.size, "budget_s": options.budget_s, **link},
        notes=["the link is simulated by the sink; speeds are those while all uploads are under way"],
    )
    bench.say("search: every candidate, then the runs of tune; nothing is told in between")
    with running_sink(bench.scratch, **link) as sink:
        found = bench.jobs.search(volume, sink, budget_s=options.budget_s, runs=options.runs)
    best = max(found.grid, key=found.grid.__getitem__)
    ratios = []
    for tuned in found.tuned:
        rate = found.grid[tuned.recommended]
        ratios.append(rate / found.grid[best])
        outcome.add(
            TUNED,
            {
                "wall_s": tuned.wall_s,
                "wall_ratio": tuned.wall_s / options.budget_s,
                "sent_mb": tuned.sent / 1e6,
                "mb_per_s": rate / 1e6,
                "rate_ratio": ratios[-1],
            },
        )
        outcome.notes.append(
            f"in force: {tuned.in_force}; recommended: {tuned.recommended}, {ratios[-1]:.3f} of the best"
        )
    longest = max(tuned.wall_s for tuned in found.tuned)
    outcome.add(
        TOGETHER,
        {
            "wall_s": longest,
            "wall_ratio": longest / options.budget_s,
            "good_share": sum(ratio >= LEAST_RATE for ratio in ratios) / len(ratios),
        },
    )
    outcome.add(GRID, {"wall_s": found.grid_wall_s, "mb_per_s": found.grid[best] / 1e6})
    outcome.notes.append(f"the grid's best: {best}")
    outcome.goal(
        f"runs that recommend over {LEAST_RATE:g} of the best", TOGETHER, "good_share", LEAST_GOOD, at_least=True
    )
    outcome.goal("the longest run, of the budget", TOGETHER, "wall_ratio", MOST_TIME)
    return outcome


SCENARIO = Scenario("search", "what `tune` recommends in its time, against a pass with every candidate", "15 min", run)
