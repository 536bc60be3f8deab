"""The command `tune`: tries part sizes, parts in flight and compressions on the user's own volume and link.

It runs in this process, whether or not a daemon does: what is measured is this machine and that link.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from amistream.cli import bundle_options as options
from amistream.cli.options import ConfigOption, JsonOption
from amistream.cli.output import put_note, put_result
from amistream.errors import EXIT_DONE, EXIT_INTERRUPTED, UsageError
from amistream.units import rate_text, size_text
from amistream.values import STANDARD_INPUT, is_path

if TYPE_CHECKING:
    from amistream.jobs.tune import Trial, Tuning
    from amistream.request import JobRequest
    from amistream.settings import Settings

BAR_WIDTH = 30

Budget = Annotated[
    float, typer.Option("--budget", metavar="SECONDS", min=1, help="About how long the trials may take together.")
]
Write = Annotated[
    Path | None, typer.Option("--write", metavar="FILE", help="Write the recommended settings to this new TOML file.")
]


def tune(
    source: options.Source,
    *,
    destinations: options.Destination,
    region: options.Region = None,
    endpoint_url: options.EndpointUrl = None,
    memory_limit: options.MemoryLimit = None,
    workers: options.Workers = None,
    budget: Budget = 120.0,
    write: Write = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> int:
    """Find the part size, concurrency and compression that bundle SOURCE fastest to that destination.

    Samples of the volume are bundled with many settings, the best of them with more; what is stored is removed again.
    The result is a table, a chart and lines for the configuration file.

    Example: [bold]amistream tune /dev/xvdf --to s3://my-bucket/tuning --budget 300 --write tuned.toml[/bold]
    """
    # What only this command needs, and needs half a second to import.
    from amistream.request import parse_request
    from amistream.settings import load

    if write is not None and write.exists():
        raise UsageError("usage", f"cannot write {write}: it exists already", hint="name a new file with --write")
    if source == STANDARD_INPUT:
        raise UsageError(
            "usage",
            "cannot tune with standard input: samples are taken from all over the volume, and more than once",
            hint="name a file or a device",
        )
    values: dict[str, Any] = {
        "source": str(Path(source).absolute()),
        "destinations": [str(Path(destinations).absolute()) if is_path(destinations) else destinations],
        "register_image": False,
        "region": region,
        "endpoint_url": endpoint_url,
        "memory_limit": memory_limit,
        "workers": workers,
    }
    request = parse_request({name: value for name, value in values.items() if value is not None})
    try:
        tuning = _run(request, load(config), budget)
    except KeyboardInterrupt:
        put_note("interrupted; what the trials stored was removed")
        return EXIT_INTERRUPTED
    fragment = config_fragment(tuning.recommended)
    if write is not None:
        write.write_text(fragment)
    put_result(json.dumps(tuning_document(tuning)) if as_json else f"{tuning_text(tuning)}\n\n{fragment}")
    return EXIT_DONE


def _run(request: JobRequest, settings: Settings, budget: float) -> Tuning:
    import uvloop

    from amistream import log
    from amistream.jobs.tune import tune as find_best
    from amistream.process import settle_memory
    from amistream.settings import LogFormat

    settle_memory()
    log.configure("error", LogFormat.TEXT)

    async def run() -> Tuning:
        return await find_best(
            request, settings, budget_s=budget, note=put_note, tell=lambda trial: put_note(trial_line(trial))
        )

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(run())


def trial_line(trial: Trial) -> str:
    candidate = trial.candidate
    return (
        f"parts of {size_text(candidate.part_size)}, {candidate.upload_concurrency} in flight, {candidate.compress}: "
        f"{rate_text(trial.sample, trial.seconds)} over {size_text(trial.sample)}"
    )


def tuning_text(tuning: Tuning) -> str:
    """The last round, best first, each with a bar; the recommended one is marked."""
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
    """Lines for amistream.toml."""
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
