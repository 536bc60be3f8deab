"""The command `tune`: measures part sizes, parts in flight and compressions with the user's own volume and link.

It runs in this process, also where a daemon runs, because it measures this machine and its link.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from amistream.cli.options import ConfigOption, JsonOption
from amistream.cli.output import put_note, put_result
from amistream.cli.request_options import make_request, takes
from amistream.cli.terminal import width_of
from amistream.errors import EXIT_DONE, UsageError
from amistream.request import DESTINATION, BundleRequest
from amistream.units import rate_text, size_text
from amistream.values import KIB, LONGEST_PROBE_S, MIB, STANDARD_INPUT

if TYPE_CHECKING:
    from amistream.jobs.search import Candidate, Trial
    from amistream.jobs.tune import Tuning
    from amistream.settings import Settings

BAR_WIDTH, LEAST_BAR = 30, 5
SHOWN = 5

Destination = Annotated[
    str,
    typer.Option(
        "--to",
        rich_help_panel=DESTINATION,
        metavar="s3://BUCKET[/KEY/PREFIX]|DIR",
        help="Where the samples go.",
        show_default=False,
    ),
]
Budget = Annotated[
    float,
    typer.Option("--budget", metavar="SECONDS", min=1, max=LONGEST_PROBE_S, help="Time for all measurements together."),
]
Write = Annotated[
    Path | None, typer.Option("--write", metavar="FILE", help="Write the recommended settings to this new TOML file.")
]


@takes("source", "source_format", "region", "endpoint_url", "memory_limit", "workers")
def tune(
    *,
    destination: Destination,
    budget: Budget = 120.0,
    write: Write = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
    **given: Any,
) -> int:
    """Find the part size, concurrency and compression that bundle SOURCE fastest to that destination.

    It measures the compressions, then the link, then passes with the setting in force and its best challengers, and
    removes all that it stored. It takes the given time. A setting is recommended only if it is faster than the one in
    force by more than the measurements differ.

    Example: [bold]amistream tune /dev/xvdf --to s3://my-bucket/tuning --budget 300 --write tuned.toml[/bold]
    """
    from amistream.settings import load

    if write is not None and write.exists():
        raise UsageError("usage", f"cannot write {write}: it exists already", hint="name a new file with --write")
    if given["source"] == STANDARD_INPUT:
        raise UsageError(
            "usage",
            "cannot tune with standard input: samples are taken from all over the volume, and more than once",
            hint="name a file or a device",
        )
    request = make_request(BundleRequest, {**given, "destinations": [destination], "register_image": False})
    tuning = _run(request, load(config), budget)
    fragment = config_fragment(tuning)
    if write is not None:
        write.write_text(fragment)
    put_result(
        json.dumps(tuning_document(tuning)) if as_json else f"{tuning_text(tuning, width_of(sys.stdout))}\n\n{fragment}"
    )
    return EXIT_DONE


def _run(request: BundleRequest, settings: Settings, budget: float) -> Tuning:
    from amistream.cli.foreground import run
    from amistream.jobs.tune import tune as find_best

    async def work() -> Tuning:
        return await find_best(request, settings, budget_s=budget, note=put_note, report=put_note)

    return run(work, after_interrupt="what the trials stored is removed, but for what a note above names")


def tuning_text(tuning: Tuning, width: int = 0) -> str:
    """Format the best settings and the one in force, the recommended one first, and the reason when nothing changes.

    Each has a bar as far as a terminal of this width has room for it.
    """
    best = [*tuning.ranking[:SHOWN]]
    if all(candidate != tuning.in_force for candidate, _ in best):
        best[-1] = tuning.in_force, tuning.speeds.rate(tuning.in_force)
    fastest = max(rate for _, rate in best)
    rows = [("PART", "IN FLIGHT", "COMPRESS", "SPEED")]
    for candidate, rate in best:
        computed = "" if tuning.speeds.measured(candidate) else "~"
        part, in_flight = size_text(candidate.part_size), str(candidate.upload_concurrency)
        rows.append((part, in_flight, candidate.compress, computed + rate_text(rate)))
    lines = [f"{part:>9}  {in_flight:>9}  {compress:8}  {speed:>12}" for part, in_flight, compress, speed in rows]
    marks = [_mark(candidate, tuning) for candidate, _ in best]
    room = (width or len(lines[0]) + 2 * BAR_WIDTH) - len(lines[0]) - 2 - max(map(len, marks)) - 2
    room = min(BAR_WIDTH, room) if room >= LEAST_BAR else 0
    for index, (mark, (_, rate)) in enumerate(zip(marks, best, strict=True), 1):
        bar = f"  {'#' * round(room * rate / fastest):{room}}" if room else ""
        lines[index] = f"{lines[index]}{bar}  {mark}".rstrip()
    if any("~" in line for line in lines):
        lines.append("~ computed from what was measured")
    if tuning.recommended == tuning.in_force:
        lines.append(f"No setting was faster than the one in force by more than {tuning.speeds.spread:.0%}.")
    return "\n".join(lines)


def _mark(candidate: Candidate, tuning: Tuning) -> str:
    marks = (("recommended", tuning.recommended), ("in force", tuning.in_force))
    return ", ".join(mark for mark, marked in marks if candidate == marked)


def config_fragment(tuning: Tuning) -> str:
    """Format lines for amistream.toml."""
    candidate = tuning.recommended
    return (
        f"# found by amistream tune: {rate_text(tuning.speeds.rate(candidate))}\n"
        f'part_size = "{_setting_text(candidate.part_size)}"\n'
        f"upload_concurrency = {candidate.upload_concurrency}\n"
        f'compress = "{candidate.compress}"\n'
    )


def _setting_text(size: int) -> str:
    return f"{size // MIB}MiB" if not size % MIB else f"{size // KIB}KiB"


def tuning_document(tuning: Tuning) -> dict[str, Any]:
    """The recommended setting, the best ones, and every pass; a setting that was only computed has no `sample`."""
    speeds = tuning.speeds

    def row(candidate: Candidate, trial: Trial | None, rate: float) -> dict[str, Any]:
        return {
            "part_size": candidate.part_size,
            "upload_concurrency": candidate.upload_concurrency,
            "compress": candidate.compress,
            "sample": trial.sample if trial else None,
            "seconds": round(trial.seconds, 3) if trial else None,
            "stored": trial.stored if trial else None,
            "rate": round(rate),
        }

    def best_row(candidate: Candidate) -> dict[str, Any]:
        trials = [trial for trial in speeds.trials if trial.candidate == candidate]
        return row(candidate, trials[-1] if trials else None, speeds.rate(candidate))

    return {
        "recommended": best_row(tuning.recommended),
        "in_force": best_row(tuning.in_force),
        "best": [best_row(candidate) for candidate, _ in tuning.ranking[:SHOWN]],
        "trials": [row(trial.candidate, trial, trial.rate) for trial in speeds.trials],
    }
