"""Formats a list of jobs from their documents, as the API gives them: no model and no library is needed for it.

A list that fits is a table, a line each. On a narrower terminal each job has a few short lines, so that nothing is cut.
"""

from __future__ import annotations

import pwd
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from typing import Any, TypeAlias
from urllib.parse import urlencode

from amistream.cli.table import columns
from amistream.units import HOUR_S, MINUTE_S, duration_text, share_text, size_text, time_text

Document: TypeAlias = Mapping[str, Any]

SHOWN = 20
"""Jobs that are listed without --limit and --all."""
MOST = 100_000
"""The largest --limit: more than are ever remembered, and less than the API refuses."""
_DAY_S = 24 * HOUR_S
_UNFINISHED = "unfinished"
_STATES = {"failed": ("failed", "interrupted", _UNFINISHED)}
"""The states that a word of --state stands for, if they are others. A crash interrupts jobs, for example."""
_ENDS = {"done", "refused", "failed", "cancelled", "interrupted"}
_NARROW = "  "


def listing_path(state: str | None, label: str | None, limit: int | None) -> str:
    """The path and query of a list of jobs."""
    query = [("state", each) for each in states_of(state)]
    if label is not None:
        query.append(("label", label))
    if limit is not None:
        query.append(("limit", str(limit)))
    return "/v1/jobs" + (f"?{urlencode(query)}" if query else "")


def states_of(word: str | None) -> Sequence[str]:
    """The states that a word of --state stands for; none for all."""
    return () if word is None else _STATES.get(word, (word,))


def job_table(jobs: Sequence[Document], *, width: int | None = None, now: datetime | None = None) -> str:
    """Format the jobs, the newest first, for a terminal of this width. Raises KeyError for what is no job.

    `jobs` are in the order of the API, oldest first.
    """
    now = now or datetime.now(UTC)
    newest = list(reversed(jobs))
    table = columns([*_heading(newest), *(_row(job, now, with_label=_any_label(newest)) for job in newest)])
    if width is None or max(map(len, table.splitlines())) <= width:
        return table
    return "\n".join(line for job in newest for line in _card(job, now, width))


def where_to(job: Document) -> Sequence[str]:
    """The AMIs of a job, or else its destinations; of a conversion, the snapshot and the AMI as soon as it has them.

    A verification has none.
    """
    result = job.get("result") or {}
    if "snapshot_id" in result:
        return [name for name in (result["snapshot_id"], result["image_id"]) if name]
    if job.get("kind") == "verify":
        return []
    image = result.get("image") or {}
    places = result.get("places") or [{"image_id": result.get("image_id") or image.get("image_id")}]
    return [place["image_id"] for place in places if place["image_id"]] or job["destinations"] or ["EBS"]


def age_text(moment: datetime, now: datetime) -> str:
    """The time since a moment, such as `3 min ago`; its date if that is longer ago than a month."""
    seconds = max(0, int((now - moment).total_seconds()))
    if seconds >= 30 * _DAY_S:
        return time_text(moment)[:10]
    for unit_s, unit in ((2 * _DAY_S, "days"), (HOUR_S, "h"), (MINUTE_S, "min")):
        if seconds >= unit_s:
            return f"{seconds // (_DAY_S if unit == 'days' else unit_s)} {unit} ago"
    return f"{seconds} s ago"


def state_text(job: Document) -> str:
    """The state, and how far the job is, how long it took, or that something of it is left."""
    state, progress = job["state"], job.get("progress")
    if job.get("resumable"):
        return f"{state}, {_UNFINISHED}"
    if state == "done" and job.get("started_at") and job.get("ended_at"):
        return f"done in {duration_text((_time(job, 'ended_at') - _time(job, 'started_at')).total_seconds())}"
    if state in _ENDS:
        return str(state)
    if job.get("place"):
        return f"{state}, place {job['place']}"
    if not progress:
        return str(state)
    left = f", {duration_text(progress['eta_s'])} left" if progress["eta_s"] is not None else ""
    return f"{state} {share_text(progress['stored_share'], 1)}{left}"


def submitter(user: int | None, name: str) -> str:
    """The user who submitted a job, by name if this machine has one; `queue` for a job of a queue, which has a name."""
    if name:
        return "queue"
    return "-" if user is None else _user_name(user)


def _submitter_of(job: Document) -> str:
    return submitter(job.get("user"), job.get("name") or "")


@cache
def _user_name(user: int) -> str:
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return str(user)


def _any_label(jobs: Sequence[Document]) -> bool:
    return any(job.get("label") for job in jobs)


def _heading(jobs: Sequence[Document]) -> list[tuple[str, ...]]:
    label = ("LABEL",) if _any_label(jobs) else ()
    return [("ID", "STATE", "AGE", "SIZE", "WHO", *label, "SOURCE", "AMI OR DESTINATION")]


def _row(job: Document, now: datetime, *, with_label: bool) -> tuple[str, ...]:
    label = (job.get("label") or "",) if with_label else ()
    age = age_text(_time(job, "created_at"), now)
    to = " ".join(where_to(job))
    return (job["id"], state_text(job), age, _size(job) or "-", _submitter_of(job), *label, job["source"], to)


def _card(job: Document, now: datetime, width: int) -> Iterator[str]:
    """The id and the state, then everything else in lines of this width; only what has no space may be longer."""
    yield from _filled([job["id"], state_text(job)], width, "  ")
    label = job.get("label")
    facts = [
        f"{age_text(_time(job, 'created_at'), now)} by {_submitter_of(job)}",
        *filter(None, [_size(job), f"label {label}" if label else ""]),
    ]
    yield from (_NARROW + line for line in _filled(facts, width - len(_NARROW), ", "))
    to = [f"-> {each}" for each in where_to(job)]
    yield from (_NARROW + line for line in _filled([job["source"], *to], width - len(_NARROW), " "))


def _filled(pieces: Sequence[str], width: int, between: str) -> Iterator[str]:
    """Join the pieces in as few lines as hold them whole."""
    line = ""
    for piece in pieces:
        if line and len(line) + len(between) + len(piece) > width:
            yield line + between.rstrip()
            line = ""
        line += between + piece if line else piece
    yield line


def _size(job: Document) -> str:
    """The size of the image, as far as it is known."""
    result, progress = job.get("result") or {}, job.get("progress") or {}
    size = result.get("image_size") or result.get("bundled_size") or progress.get("bytes_total")
    return size_text(size) if size else ""


def _time(job: Document, name: str) -> datetime:
    return datetime.fromisoformat(job[name])
