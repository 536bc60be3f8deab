"""Converts every bundle of a bucket that has no AMI on EBS yet, a few jobs at a time, and goes on where it stopped.

A bundle's job is found again by its source: one that runs is followed, one that was cut short is resumed. So the same
command, given again, takes up what an earlier one left.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Protocol

from pydantic import BaseModel, ConfigDict

from amistream.bundles.results import ConvertibleBundle
from amistream.cli.forecast_text import forecast_text
from amistream.cli.table import columns, counted
from amistream.errors import AmistreamError, DaemonUnreachableError
from amistream.events import ConversionResult, Event, JobKind, JobView, State
from amistream.flow.gather import gather_limited
from amistream.jobs.forecast import Forecast
from amistream.request.convert import ConvertRequest

WAITING = "waiting"
"""State of a bundle in a dry run that would be converted."""


class Desk(Protocol):
    """Where jobs run: the daemon, or this process."""

    async def jobs(self) -> Sequence[JobView]:
        """Every job that is remembered, oldest first."""

    async def submit(self, request: ConvertRequest, key: str) -> str:
        """Submit a job, or find the one of the same key; returns its id."""

    async def resume(self, job_id: str) -> str:
        """Continue a job; returns its id."""

    def events(self, job_id: str) -> AsyncIterator[Event]:
        """The events of a job up to its end."""


class Outcome(BaseModel):
    """The end of one bundle. `state`: that of its job; `there`: it had its AMI before; `broken`: it is not whole."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    manifest: str
    state: str
    job: str = ""
    snapshot_id: str = ""
    image_id: str = ""
    error: str = ""

    @property
    def is_failed(self) -> bool:
        return self.state not in {State.DONE, "there", WAITING}


class Outcomes(BaseModel):
    """The end of every bundle. `plan`: of a dry run, the estimate of all that would be converted."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    bundles: tuple[Outcome, ...]
    plan: Forecast | None = None


async def convert_every(
    desk: Desk,
    found: Sequence[ConvertibleBundle],
    make: Callable[[str], ConvertRequest],
    *,
    at_once: int,
    tell: Callable[[str], None],
) -> Outcomes:
    """Convert what `found` has and is not converted, `at_once` at a time. `tell` gets a line for each begin and end.

    A bundle that fails stops no other. Raises `DaemonUnreachableError`.
    """
    earlier: dict[str, list[JobView]] = defaultdict(list)
    for job in await desk.jobs():
        if job.kind is JobKind.CONVERT:
            earlier[job.source].append(job)

    async def convert(bundle: ConvertibleBundle) -> Outcome:
        if known := settled(bundle):
            return known
        try:
            job_id = await _begin(desk, make(bundle.manifest), earlier[bundle.manifest])
            tell(f"{bundle.manifest}: job {job_id}")
            async for event in desk.events(job_id):
                job = event.job
        except DaemonUnreachableError:
            raise
        except AmistreamError as error:
            outcome = Outcome(manifest=bundle.manifest, state=State.REFUSED, error=error.message)
        else:
            outcome = _outcome(bundle, job)
        tell(f"{bundle.manifest}: {outcome.state}{f': {outcome.error}' if outcome.error else ''}")
        return outcome

    return Outcomes(bundles=tuple(await gather_limited(convert, found, at_once)))


def settled(bundle: ConvertibleBundle) -> Outcome | None:
    """The outcome of a bundle for which there is nothing to do."""
    if bundle.image_id:
        return Outcome(manifest=bundle.manifest, state="there", image_id=bundle.image_id)
    if bundle.problem:
        return Outcome(manifest=bundle.manifest, state="broken", error=bundle.problem)
    return None


def plan(found: Sequence[ConvertibleBundle], check: Callable[[str], str]) -> Outcomes:
    """The plan alone: nothing is made. `check` runs a bundle's checks, and returns the reason of a refusal, or ''."""

    def planned(bundle: ConvertibleBundle) -> Outcome:
        reason = check(bundle.manifest)
        return Outcome(manifest=bundle.manifest, state=State.REFUSED if reason else WAITING, error=reason)

    return Outcomes(bundles=tuple(settled(each) or planned(each) for each in found))


async def _begin(desk: Desk, request: ConvertRequest, earlier: Sequence[JobView]) -> str:
    """The id of the bundle's job, which is an earlier one if that did not end."""
    last = earlier[-1] if earlier else None
    if last is not None and not last.state.ended:
        return last.id
    if last is not None and last.resumable:
        return await desk.resume(last.id)
    # Two commands at the same time begin one job.
    return await desk.submit(request, hashlib.sha256(f"{request.source} {len(earlier)}".encode()).hexdigest())


def _outcome(bundle: ConvertibleBundle, job: JobView) -> Outcome:
    result = job.result if isinstance(job.result, ConversionResult) else None
    return Outcome(
        manifest=bundle.manifest,
        state=job.state,
        job=job.id,
        snapshot_id=result.snapshot_id if result else "",
        image_id=(result.image_id or "") if result else "",
        error=job.error.message if job.error else "",
    )


def outcomes_text(outcomes: Outcomes) -> str:
    """Format a table of all bundles, and their number by state."""
    rows = [
        (each.state, each.snapshot_id or "-", each.image_id or "-", f"{each.manifest}{_why(each)}")
        for each in outcomes.bundles
    ]
    states = [each.state for each in outcomes.bundles]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    summary = f"{counted(len(rows), 'bundle')}{f': {counts}' if rows else ' below that address'}"
    table = [columns([("STATE", "SNAPSHOT", "AMI", "MANIFEST"), *rows])] if rows else []
    estimate = []
    if outcomes.plan is not None:
        estimate = [f"Of the {states.count(WAITING)} that wait, an estimate:\n{forecast_text(outcomes.plan, 'block')}"]
    return "\n\n".join([*table, *estimate, summary])


def _why(outcome: Outcome) -> str:
    return f"  <- {outcome.error}" if outcome.error else ""
