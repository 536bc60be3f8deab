"""The cost of resuming a job that was interrupted near its end, against a whole job."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from benchmarks.bench import Bench, Scenario
from benchmarks.inputs import warm
from benchmarks.jobs import Figures
from benchmarks.results import Column, Outcome
from benchmarks.sink_process import running_sink
from benchmarks.timing import alternate

LONGER = 4
"""Factor on --size: a job must take much longer than its start."""
CUT_AT = 0.9
MOST_TIME, MOST_SENT = 0.35, 0.15
LINKED, UNLIMITED = "on the link", "no limit"

COLUMNS = (
    Column("wall_s", "wall s"),
    Column("cpu_s", "CPU s"),
    Column("wall_ratio", "wall / whole"),
    Column("sent_ratio", "sent / whole"),
)


def run(bench: Bench) -> Outcome:
    """Each round, over a simulated link and without a limit: a whole job, and the rest of one interrupted at 90 %."""
    options = bench.options
    volume = bench.inputs.volume(options.size * LONGER)
    warm(volume)
    outcome = Outcome(
        "resume",
        COLUMNS,
        {
            "kind": bench.inputs.kind,
            "size": options.size * LONGER,
            "cut_at": CUT_AT,
            "link_bytes_per_s": options.link_bytes_per_s,
            "round_trip_s": options.round_trip_s,
        },
        notes=[
            (
                "the rest, when nine tenths of the bundle are stored: everything is read and hashed again, but only "
                "what was not stored is compressed and sent; without a limit the whole job is as short as it can be, "
                "and the reading again weighs most"
            )
        ],
    )
    link = running_sink(bench.scratch, bytes_per_s=options.link_bytes_per_s, round_trip_s=options.round_trip_s)
    with link as linked, running_sink(bench.scratch) as unlimited:
        variants: dict[str, Callable[[], Figures]] = {}
        size = bench.jobs.run(bench.jobs.sink(volume, unlimited), unlimited).bundled_size
        for where, sink in ((LINKED, linked), (UNLIMITED, unlimited)):
            whole = bench.jobs.sink(volume, sink)
            rest = whole.model_copy(update={"interrupt_at": round(CUT_AT * size)})
            variants[f"whole, {where}"] = partial(bench.jobs.run, whole, sink)
            variants[f"rest, {where}"] = partial(bench.jobs.run, rest, sink)
        for number, figures in enumerate(alternate(options.runs, variants), 1):
            bench.say(f"resume: round {number} of {options.runs}")
            for name, measured in figures.items():
                whole_figures = figures[f"whole, {name.partition(', ')[2]}"]
                outcome.add(
                    name,
                    {
                        "wall_s": measured.wall_s,
                        "cpu_s": measured.cpu_s,
                        "wall_ratio": measured.wall_s / whole_figures.wall_s,
                        "sent_ratio": measured.bytes_sent / whole_figures.bytes_sent,
                    },
                )
    outcome.goal(f"the rest, time {LINKED}", f"rest, {LINKED}", "wall_ratio", MOST_TIME)
    for where in (LINKED, UNLIMITED):
        outcome.goal(f"the rest, bytes sent {where}", f"rest, {where}", "sent_ratio", MOST_SENT)
    return outcome


SCENARIO = Scenario("resume", "what the rest of a job costs that was cut at nine tenths", "3 min", run)
