"""The command `tune`: measures part sizes, parts in flight and compressions with the user's own volume and link.

It runs in this process, also where a daemon runs, because it measures this machine and its link.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from amistream.cli.options import ConfigOption, JsonOption
from amistream.cli.output import put_note, put_result
from amistream.cli.request_options import make_request, takes
from amistream.errors import EXIT_DONE, UsageError
from amistream.request import DESTINATION, JobRequest
from amistream.units import rate_text, size_text
from amistream.values import STANDARD_INPUT

if TYPE_CHECKING:
    from amistream.jobs.tune import Trial, Tuning
    from amistream.settings import Settings

BAR_WIDTH = 30

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
    float, typer.Option("--budget", metavar="SECONDS", min=1, help="Approximate time for all trials together.")
]
Write = Annotated[
    Path | None, typer.Option("--write", metavar="FILE", help="Write the recommended settings to this new TOML file.")
]


@takes("source", "region", "endpoint_url", "memory_limit", "workers")
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

    It bundles samples of the volume with many settings, and larger samples with the best ones, and removes all that it
    stored. The result is a table, a chart and lines for the configuration file.

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
    request = make_request(JobRequest, {**given, "destinations": [destination], "register_image": False})
    tuning = _run(request, load(config), budget)
    fragment = config_fragment(tuning.recommended)
    if write is not None:
        write.write_text(fragment)
    put_result(json.dumps(tuning_document(tuning)) if as_json else f"{tuning_text(tuning)}\n\n{fragment}")
    return EXIT_DONE


def _run(request: JobRequest, settings: Settings, budget: float) -> Tuning:
    from amistream.cli.foreground import run
    from amistream.jobs.tune import tune as find_best

    async def work() -> Tuning:
        return await find_best(
            request, settings, budget_s=budget, note=put_note, report=lambda trial: put_note(trial_line(trial))
        )

    return run(work, after_interrupt="the objects that the trials stored were removed")


def trial_line(trial: Trial) -> str:
    candidate = trial.candidate
    return (
        f"parts of {size_text(candidate.part_size)}, {candidate.upload_concurrency} in flight, {candidate.compress}: "
        f"{rate_text(trial.sample, trial.seconds)} over {size_text(trial.sample)}"
    )


def tuning_text(tuning: Tuning) -> str:
    """Format the last round, best first, each with a bar, and mark the recommended settings."""
    largest = max(trial.sample for trial in tuning.trials)
    last = sorted((trial for trial in tuning.trials if trial.sample == largest), key=lambda trial: -trial.rate)
    lines = [f"{'PART':>10} {'IN FLIGHT':>9}  {'COMPRESS':8} {'SPEED':>11}  {'SENT':>5}"]
    for trial in last:
        candidate = trial.candidate
        bar = "#" * round(BAR_WIDTH * trial.rate / last[0].rate)
        mark = " <- recommended" if trial is tuning.recommended else ""
        lines.append(
            f"{size_text(candidate.part_size):>10} {candidate.upload_concurrency:>9}  {candidate.compress:8} "
            f"{rate_text(trial.sample, trial.seconds):>11}  {trial.stored / trial.sample:>4.0%}  {bar}{mark}"
        )
    return "\n".join(lines)


def config_fragment(trial: Trial) -> str:
    """Format lines for amistream.toml."""
    candidate = trial.candidate
    return (
        f"# found by amistream tune: {rate_text(trial.sample, trial.seconds)} over {size_text(trial.sample)}\n"
        f"part_size = {candidate.part_size}\n"
        f"upload_concurrency = {candidate.upload_concurrency}\n"
        f'compress = "{candidate.compress}"\n'
    )


def tuning_document(tuning: Tuning) -> dict[str, Any]:
    def row(trial: Trial) -> dict[str, Any]:
        candidate = trial.candidate
        return {
            "part_size": candidate.part_size,
            "upload_concurrency": candidate.upload_concurrency,
            "compress": candidate.compress,
            "sample": trial.sample,
            "seconds": round(trial.seconds, 3),
            "stored": trial.stored,
            "rate": round(trial.rate),
        }

    return {"recommended": row(tuning.recommended), "trials": [row(trial) for trial in tuning.trials]}
