"""The result of `amistream tune` by successive halving, against trying every candidate in full."""

from __future__ import annotations

from amistream.values import MIB
from benchmarks.bench import Bench, Scenario
from benchmarks.inputs import warm
from benchmarks.results import Column, Outcome
from benchmarks.sink_process import running_sink

HALVING, GRID = "successive halving", "every candidate in full"
LEAST_RATE, MOST_WORK = 0.9, 0.25
FAIR_SAMPLE = 512 * MIB
"""Least size: below it the first round's samples are larger than the intended eighth."""

COLUMNS = (
    Column("passes", "passes", ".0f"),
    Column("samples", "whole samples", ".1f"),
    Column("wall_s", "wall s", ".0f"),
    Column("mb_per_s", "best found, MB/s", ".1f"),
    Column("grid_mb_per_s", "the same in full, MB/s", ".1f"),
    Column("rate_ratio", "of the best", ".3f"),
    Column("work_ratio", "of the work", ".3f"),
)


def run(bench: Bench) -> Outcome:
    """One round at any --runs: it bundles some 150 samples, and each candidate's rate is one figure."""
    options = bench.options
    volume = bench.inputs.volume(options.size)
    warm(volume)
    rate, trip = options.link_bytes_per_s / 1e6, options.round_trip_s * 1e3
    outcome = Outcome(
        "search",
        COLUMNS,
        {
            "kind": bench.inputs.kind,
            "size": options.size,
            "link_bytes_per_s": options.link_bytes_per_s,
            "round_trip_s": options.round_trip_s,
        },
        notes=[f"link: {rate:g} MB/s for all connections together, {trip:g} ms round trip, simulated by the sink"],
    )
    bench.say("search: the search, then the whole grid; nothing is told in between")
    link = running_sink(bench.scratch, bytes_per_s=options.link_bytes_per_s, round_trip_s=options.round_trip_s)
    with link as sink:
        found = bench.jobs.search(volume, sink, options.size)
    in_full = {trial.candidate: trial.bytes_per_s for trial in found.grid.trials}
    best = max(in_full, key=in_full.__getitem__)
    chosen = found.recommended.candidate
    halving, grid = found.halving.row(options.size), found.grid.row(options.size)
    outcome.add(
        HALVING,
        {
            **halving,
            "mb_per_s": found.recommended.bytes_per_s / 1e6,
            "grid_mb_per_s": in_full[chosen] / 1e6,
            "rate_ratio": in_full[chosen] / in_full[best],
            "work_ratio": halving["samples"] / grid["samples"],
        },
    )
    outcome.add(GRID, {**grid, "mb_per_s": in_full[best] / 1e6})
    outcome.notes.append(f"recommended: {chosen}; the grid's best: {best}")
    if options.size < FAIR_SAMPLE:
        outcome.notes.append(f"samples under {FAIR_SAMPLE // MIB} MiB cost the search more than its share")
    outcome.goal("rate recommended, of the best there is", HALVING, "rate_ratio", LEAST_RATE, at_least=True)
    outcome.goal("work, of trying everything", HALVING, "work_ratio", MOST_WORK)
    return outcome


SCENARIO = Scenario(
    "search", "what `tune` finds with a quarter of the work, against every candidate in full", "8 min", run
)
