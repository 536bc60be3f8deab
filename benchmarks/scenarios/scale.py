"""Growth: time linear and memory flat in the volume's size; holes for free; zeros at memory speed."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from amistream.values import GIB
from benchmarks.bench import Bench, Scenario
from benchmarks.inputs import warm
from benchmarks.results import Column, Outcome
from benchmarks.timing import alternate

TIMES = (1, 2, 4, 8)
TOTAL = 10
"""Size of the volumes with holes or zeros, in units; one unit of them is used."""
RSS_GROWTH, LINEAR, SPARSE, ZEROS_GB_PER_S = 1.05, 1.05, 1.2, 1.0

COLUMNS = (
    Column("size_gib", "volume GiB", ".3g"),
    Column("wall_s", "wall s"),
    Column("cpu_s", "CPU s"),
    Column("mb_per_s", "MB/s", ".0f"),
    Column("wall_per_unit_ratio", "s/GiB ratio"),
    Column("wall_ratio", "wall ratio"),
    Column("peak_rss_mib", "peak RSS MiB", ".1f"),
    Column("rss_ratio", "RSS ratio"),
    Column("zeros_gb_per_s", "zeros GB/s", ".1f"),
)

NOTE = (
    "into nothing, each job in a process of its own; the larger volumes are the smallest one repeated, and ratios are "
    "to it; zeros: what the dense volume takes longer than its data alone"
)


def run(bench: Bench) -> Outcome:
    """Each round: volumes of 1, 2, 4 and 8 units, one of 10 with 1 used, and the same with its holes read as zeros."""
    unit = bench.options.scale_unit
    outcome = Outcome(
        "scale",
        COLUMNS,
        {"kind": bench.inputs.kind, "unit": unit},
        notes=[NOTE],
    )
    names = {times: _name(times * unit) for times in TIMES}
    holes, zeros = (
        f"{_name(TOTAL * unit)}, {_name(unit)} used, holes",
        f"{_name(TOTAL * unit)}, {_name(unit)} used, zeros",
    )
    variants = {name: partial(_job, bench, bench.inputs.repeated(unit, times)) for times, name in names.items()}
    variants[holes] = partial(_job, bench, bench.inputs.scattered(unit, TOTAL * unit))
    variants[zeros] = partial(_job, bench, bench.inputs.followed_by_zeros(unit, TOTAL * unit), sparse="never")
    smallest, largest = names[TIMES[0]], names[TIMES[-1]]
    for number, figures in enumerate(alternate(bench.options.runs, variants), 1):
        bench.say(f"scale: round {number} of {bench.options.runs}")
        base = figures[smallest]
        for row in figures.values():
            row["wall_ratio"] = row["wall_s"] / base["wall_s"]
            row["rss_ratio"] = row["peak_rss_mib"] / base["peak_rss_mib"]
        for name in names.values():
            figures[name]["wall_per_unit_ratio"] = (
                figures[name]["wall_ratio"] * base["size_gib"] / figures[name]["size_gib"]
            )
        more = figures[zeros]["wall_s"] - base["wall_s"]
        # On a tiny volume the zeros may vanish in the noise.
        if more > 0:
            figures[zeros]["zeros_gb_per_s"] = (TOTAL - 1) * unit / more / 1e9
        for name, row in figures.items():
            outcome.add(name, row)
    outcome.goal("time per GiB of the largest over the smallest", largest, "wall_per_unit_ratio", LINEAR)
    outcome.goal("peak RSS of the largest over the smallest", largest, "rss_ratio", RSS_GROWTH)
    outcome.goal("time with holes over the data's alone", holes, "wall_ratio", SPARSE)
    if "zeros_gb_per_s" in outcome.rows[zeros].median:
        outcome.goal("GB/s over dense zeros", zeros, "zeros_gb_per_s", ZEROS_GB_PER_S, at_least=True)
    return outcome


def _job(bench: Bench, volume: Path, **options: str) -> dict[str, float]:
    # All of them together may be more than the page cache holds.
    warm(volume)
    row = bench.jobs.run(bench.jobs.nothing(volume, **options)).row()
    return {**row, "size_gib": volume.stat().st_size / GIB}


def _name(size: int) -> str:
    return f"{size / GIB:.3g} GiB"


SCENARIO = Scenario("scale", "1, 2, 4, 8 GiB; 10 GiB of which 1 GiB is used, as holes and as zeros", "3 min", run)
