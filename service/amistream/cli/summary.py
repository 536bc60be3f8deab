"""Text about one job for stdout, and all about the result of a finished one. `cli.outcome` has its short form.

No model is loaded here: `status` shows the daemon's document in the place of one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from amistream.cli.job_table import submitter
from amistream.cli.report_text import report_text
from amistream.cli.screen import progress_line
from amistream.cli.table import columns, counted
from amistream.cli.transfer_text import migrated_text
from amistream.states import JobKind
from amistream.units import duration_text, left_out_text, rate_text, size_text, time_text

if TYPE_CHECKING:
    from amistream.events import BundleResult, ConversionResult, JobView, PlaceResult, StageProgress
    from amistream.reports import Migrated, Report


def job_text(job: JobView, *, option: str = "") -> str:
    """Format one job. `option`: the suffix of suggested commands after its id."""
    facts = [
        ("job", job.id),
        ("state", job.state.value if job.place is None else f"{job.state.value}, place {job.place}"),
        *([("label", job.label)] if job.label else []),
        ("source", job.source),
        *(("destination", destination) for destination in job.destinations),
        ("created", f"{time_text(job.created_at)} by {submitter(job.user, job.name)}"),
    ]
    if job.started_at is not None:
        facts.append(("started", time_text(job.started_at)))
    if job.ended_at is not None:
        facts.append(("ended", time_text(job.ended_at)))
    facts += [("note", notice) for notice in job.notices]
    if job.error is not None:
        facts.append(("error", job.error.message))
        facts += [("", line) for line in job.error.hint.splitlines()]
        if job.error.request_id:
            facts.append(("request", job.error.request_id))
    if job.looks_again_at is not None:
        facts.append(("unsure", f"until {time_text(job.looks_again_at)}: something may still appear there"))
    elif job.resumable and job.error is None:  # the hint of an error has it
        facts += _kept_text(job, job.id + option)
    if job.progress is not None and not job.state.ended:
        facts.append(("progress", progress_line(job.progress, job.kind)))
    text = columns(facts)
    return f"{text}\n{result_text(job)}" if job.result is not None else text


def _kept_text(job: JobView, name: str) -> list[tuple[str, str]]:
    """The parts or blocks that an unfinished job has kept, and the commands for it."""
    match job.kind:
        case JobKind.BUNDLE | JobKind.MIGRATE:
            kept = counted(job.kept_parts, "part")
        case JobKind.CONVERT:
            kept = counted(job.kept_blocks, "block")
        case JobKind.VERIFY:
            return [("kept", f"nothing; `amistream resume {name}` begins again, `amistream cancel {name}` ends it")]
    return [
        ("kept", f"{kept}; `amistream resume {name}` goes on from there,"),
        ("", f"`amistream cancel {name}` removes them"),
    ]


def result_text(job: JobView) -> str:
    """Format the result of a finished job, and the time of its stages."""
    match job.kind:
        case JobKind.BUNDLE:
            return _bundle_text(cast("BundleResult", job.result))
        case JobKind.CONVERT:
            return _conversion_text(cast("ConversionResult", job.result))
        case JobKind.VERIFY:
            return report_text(cast("Report", job.result))
        case JobKind.MIGRATE:
            return migrated_text(cast("Migrated", job.result))


def details_text(job: JobView) -> str:
    """Format what the short form of a result leaves out: how it was made, and the time of its stages."""
    result = cast("BundleResult | ConversionResult", job.result)
    facts = [("CPU", duration_text(result.cpu_s))]
    if result.left_out and (why := left_out_text(result.left_out)):
        facts.append(("left out", why))
    if job.kind is JobKind.CONVERT:
        facts.append(("sent", _sent_text(cast("ConversionResult", result))))
    elif kinds := cast("BundleResult", result).compression:
        facts.append(("deflated", _compression_text(kinds)))
    if result.advice:
        facts.append(("limit", result.advice))
    return f"{columns(facts)}\n\n{_stage_table(result.stages)}"


def _bundle_text(result: BundleResult) -> str:
    facts = [("manifest", result.manifest)]
    if result.image_id is not None:
        facts += [("AMI", result.image_id), ("name", result.image_name or "")]
    if result.region is not None:
        facts.append(("region", result.region))
    facts += [
        ("size", _size_text(result)),
        ("bundled", f"{size_text(result.bundled_size)} in {counted(result.parts, 'part')}"),
        *_speed_facts(result),
    ]
    if result.compression:
        facts.append(("deflated", _compression_text(result.compression)))
    if result.advice:
        facts.append(("limit", result.advice))
    places = f"\n\n{_place_table(result.places)}" if len(result.places) > 1 else ""
    return f"{columns(facts)}{places}\n\n{_stage_table(result.stages)}"


def _conversion_text(result: ConversionResult) -> str:
    facts = [("snapshot", result.snapshot_id)]
    if result.image_id is not None:
        facts += [("AMI", result.image_id), ("name", result.image_name or "")]
    facts += [
        ("region", result.region),
        ("size", _size_text(result)),
        ("sent", _sent_text(result)),
        *_speed_facts(result),
    ]
    if result.advice:
        facts.append(("limit", result.advice))
    return f"{columns(facts)}\n\n{_stage_table(result.stages)}"


def _speed_facts(result: BundleResult | ConversionResult) -> list[tuple[str, str]]:
    return [
        ("elapsed", f"{duration_text(result.elapsed_s)}, {duration_text(result.cpu_s)} of CPU"),
        ("rate", f"{rate_text(result.image_size, result.elapsed_s)} of the image"),
    ]


def _compression_text(compression: dict[str, int]) -> str:
    kinds = sorted(compression.items(), key=lambda item: -item[1])
    return ", ".join(f"{size_text(size)} {kind}" for kind, size in kinds)


def _sent_text(result: ConversionResult) -> str:
    return f"{result.blocks_put} of {result.blocks} blocks of 512 KiB; all others are zeros"


def _size_text(result: BundleResult | ConversionResult) -> str:
    """The size of the volume, and how much of it was left out and why."""
    text = size_text(result.image_size)
    why = left_out_text(result.left_out) if result.left_out else ""
    return f"{text}; left out: {why}" if why else text


def _place_table(places: Sequence[PlaceResult]) -> str:
    rows = [
        (
            place.destination,
            place.region or "",
            place.image_id or "",
            place.manifest if place.error is None else place.error.message,
        )
        for place in places
    ]
    return columns([("DESTINATION", "REGION", "AMI", "MANIFEST"), *rows])


def _stage_table(stages: Sequence[StageProgress]) -> str:
    """A row per stage: the time that it would take alone with all its lanes at work, and its speed then."""
    rows = [
        (
            f"{stage.name} x{stage.lanes}" if stage.lanes > 1 else stage.name,
            size_text(stage.bytes_in),
            size_text(stage.bytes_out),
            duration_text(stage.busy_s / stage.lanes),
            f"{stage.busy_share:.0%}",
            rate_text(stage.bytes_in, stage.busy_s / stage.lanes),
        )
        for stage in stages
    ]
    return columns([("STAGE", "IN", "OUT", "TIME", "BUSY", "SPEED"), *rows])
