"""The command `convert`: makes an EBS snapshot, and an AMI of it, of a bundle or a volume, and follows the job.

Its options are the fields of `request.ConvertCheckRequest`: add one there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from amistream.cli.dry_run import DryRunOption
from amistream.cli.dry_run import dry_run as show_plan
from amistream.cli.job_access import Jobs
from amistream.cli.manifest_arguments import bucket_address, settings_for
from amistream.cli.options import ConfigOption, DetachOption, JsonOption, SocketOption
from amistream.cli.output import put_note, put_result
from amistream.cli.request_options import fields_of, in_option_words, make_request, takes, validated
from amistream.cli.showing import NoProgressOption, QuietOption, VerboseOption, showing
from amistream.cli.submitting import RunHere, runs_here, submit_job
from amistream.errors import EXIT_DONE, JobError, RefusedError, StoreError, UsageError
from amistream.events import JobKind, State
from amistream.request import StoreReach
from amistream.request.convert import ConvertCheckRequest, ConvertRequest

if TYPE_CHECKING:
    from amistream.bundles.results import ConvertibleBundle
    from amistream.cli.every import Desk, Outcomes
    from amistream.jobs.forecast import Forecast
    from amistream.settings import Settings

Every = Annotated[
    bool,
    typer.Option(
        # No brackets: they are markup here.
        "--every",
        help="SOURCE is s3://BUCKET or s3://BUCKET/PREFIX: convert each bundle there that has no AMI on EBS yet.",
    ),
]
AtOnce = Annotated[
    int | None,
    typer.Option(
        "--jobs", metavar="N", min=1, max=64, help="With --every: jobs at a time; default: the setting max_jobs."
    ),
]


@takes(*fields_of(ConvertCheckRequest), model=ConvertRequest)
def convert(
    context: typer.Context,
    *,
    every: Every = False,
    at_once: AtOnce = None,
    dry_run: DryRunOption = False,
    in_process: RunHere = False,
    detach: DetachOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
    no_progress: NoProgressOption = False,
    socket: SocketOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
    **given: Any,
) -> int:
    """Make an EBS snapshot and an EBS-backed AMI of SOURCE, and follow the job to its end.

    SOURCE is the manifest of a bundle, or whatever `bundle` takes. A bundle is read, opened with your private key,
    proved and written in one pass: no instance, no volume, no disk space. Its architecture, devices, kernel and, from
    the AMI registered from it, its networks are taken over. Options that are not given come from the daemon's settings,
    or from your own with --in-process.

    Ctrl-C leaves the daemon's job running; with --in-process it cancels the job, and deletes the snapshot.

    With --every each bundle below a prefix is converted that has no AMI on EBS yet, which a tag of the AMI says. Given
    again, the same command resumes what was cut short, also after Ctrl-C.

    Example: [bold]amistream convert s3://my-bucket/web-1/image.manifest.xml --ami-name web-1-ebs --ena[/bold]

    Example: [bold]amistream convert /dev/xvdf --ami-name web-2 --ena --volume-size 20GiB[/bold]

    Example: [bold]amistream convert data.qcow2 --no-register --encrypted[/bold]

    Example: [bold]amistream convert s3://my-bucket/web-1/image.manifest.xml --dry-run[/bold]

    Example: [bold]amistream convert s3://my-bucket/web --every --ena --jobs 4[/bold]
    """
    shown = showing(quiet=quiet, verbose=verbose, no_progress=no_progress, as_json=as_json)
    in_process = runs_here(given, in_process=in_process)
    _refuse_together(given, every=every, detach=detach, at_once=at_once)
    given["kind"] = JobKind.CONVERT
    place = _Place(socket, config, in_process=in_process)
    try:
        if every:
            reach = validated(StoreReach, context)
            return _convert_every(given, reach, place, at_once=at_once, dry_run=dry_run, as_json=as_json)
        if dry_run:
            from amistream.settings import load

            settings = load(config)
            at = None if in_process else socket or settings.socket
            return show_plan(make_request(ConvertRequest, given), settings, at, as_json=as_json, verbose=verbose)
    except UsageError as error:
        raise in_option_words(error, context) from error
    jobs = Jobs(socket, config, in_process=in_process, detach=detach, shown=shown)
    return submit_job(context, ConvertRequest, given, jobs, in_process=in_process)


def _refuse_together(given: dict[str, Any], *, every: bool, detach: bool, at_once: int | None) -> None:
    """Raise `UsageError` for options that exclude each other."""
    reason = ""
    if at_once is not None and not every:
        reason = "--jobs needs --every"
    elif every and detach:
        reason = "--every waits for its jobs: leave --detach out"
    elif every and given["ami_name"]:
        reason = "with --every each AMI has a name of its own: leave --ami-name out"
    if reason:
        raise UsageError("usage", f"cannot run the command: {reason}")


@dataclass(frozen=True)
class _Place:
    """Where the work is done."""

    socket: Path | None
    config: Path | None
    in_process: bool


def _convert_every(
    given: dict[str, Any], reach: StoreReach, place: _Place, *, at_once: int | None, dry_run: bool, as_json: bool
) -> int:
    """Convert the bundles of a bucket; the exit status is that of a failed job, or check, if one of them failed."""
    from amistream.checks.findings import Status
    from amistream.cli.commands.doctor import find
    from amistream.cli.every import WAITING, convert_every, outcomes_text, plan
    from amistream.cli.every_desks import work_here, work_in_daemon
    from amistream.cli.foreground import run_here

    folder = bucket_address(given["source"])

    def make(manifest: str) -> ConvertRequest:
        return make_request(ConvertRequest, {**given, "source": manifest})

    make(f"{folder}/image.manifest.xml")  # options are refused before anything is asked
    settings = settings_for(place.config, reach)
    found: list[ConvertibleBundle] = run_here(
        settings, lambda session, _: session.convertible(folder, region=reach.region or "")
    )

    async def work(desk: Desk) -> Outcomes:
        return await convert_every(desk, found, make, at_once=at_once or settings.max_jobs, tell=put_note)

    def check(manifest: str) -> str:
        put_note(f"{manifest}: checking")
        findings = find(make(manifest), settings, None if place.in_process else place.socket or settings.socket)
        return "; ".join(each.found for each in findings if each.status is Status.FAILED)

    if dry_run:
        outcomes = plan(found, check)
        waiting = {each.manifest for each in outcomes.bundles if each.state == WAITING}
        if coming := [each for each in found if each.manifest in waiting]:
            estimate = _estimate(coming, make, settings, at_once or settings.max_jobs)
            outcomes = outcomes.model_copy(update={"plan": estimate})
        put_result(outcomes.model_dump_json() if as_json else outcomes_text(outcomes))
        return RefusedError.exit_status if any(each.state == State.REFUSED for each in outcomes.bundles) else EXIT_DONE
    outcomes = work_here(work, place.config) if place.in_process else work_in_daemon(work, place.socket, place.config)
    put_result(outcomes.model_dump_json() if as_json else outcomes_text(outcomes))
    failed = any(each.is_failed for each in outcomes.bundles)
    return JobError.exit_status if failed else EXIT_DONE


def _estimate(
    bundles: Sequence[ConvertibleBundle], make: Callable[[str], ConvertRequest], settings: Settings, at_once: int
) -> Forecast:
    """Estimate all conversions together; a sample of the first bundle shows how fast they are read."""
    from amistream.cli.foreground import run
    from amistream.jobs.conversion_forecast import forecast_conversion, forecast_every

    first = None
    with suppress(JobError, RefusedError, StoreError):
        first = run(lambda: forecast_conversion(make(bundles[0].manifest), settings))
    return forecast_every(bundles, first, at_once=at_once)
