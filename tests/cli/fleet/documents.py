"""Results of jobs as hosts send them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from amistream.events import ErrorBody, JobKind, State
from amistream.fleet.results import ResultModel

NOON = datetime(2026, 11, 29, 12, tzinfo=UTC)


def result(job: str, outcome: State = State.DONE, *, minute: int = 0, host: str = "web/1", **more: Any) -> ResultModel:
    """A result that came at this minute after noon."""
    ended_at = NOON + timedelta(minutes=minute)
    error = None
    if outcome is not State.DONE:
        error = ErrorBody(code="source.missing", message="cannot read disk.img: it is not there")
    return ResultModel(
        id=f"{job}#{minute}",
        job=job,
        kind=JobKind.VERIFY,
        outcome=outcome,
        code=error.code if error else "",
        host=host,
        attempt=1,
        queue="https://sqs.eu-west-1.amazonaws.com/1/work",
        sent_at=NOON,
        started_at=ended_at - timedelta(seconds=90),
        ended_at=ended_at,
        error=error,
        **more,
    )
