"""The results of jobs from the queue: one JSON document for each end, as `results` receives it.

A result arrives at least once, under one id. That of a job that is done has the job's name in it: a host that dies
between the result and the deletion of its message is followed by another one, which finds the job done and sends the
result again, and so does the host of a second message of the job. Every other result has the id of its message in it:
a dead letter that is sent again is another message, and has a result of its own.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from amistream.errors import AmistreamError
from amistream.events import ErrorBody, JobKind, JobResult, JobView, State
from amistream.jobs.deliveries import HeldMessage, Notice
from amistream.values import KIB

MOST_BYTES = 200 * KIB
"""A document that is larger is sent without the job's own result. The outlets take 256 KiB with all that they add."""
_LONGEST_TEXT = 4000
"""Letters of each text of an error in a document that is too large without the job's own result."""


class ResultModel(BaseModel):
    """The end of a job from the queue. The same result may arrive twice, under the same `id`: the first counts."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    v: int = Field(1, description="version of this form")
    id: str = Field(description="JOB#done, or the message's id with the outcome: at most one result of a job is done")
    message: str = Field("", description="id of the message")
    job: str = Field(description="name of the job; empty for a message that has none")
    kind: JobKind | None = None
    label: str = ""
    outcome: State = Field(description="done, refused, failed or cancelled")
    code: str = Field("", description="of the error; empty when done")
    host: str = Field(description="host and process that ended it")
    attempt: int = Field(description="receives of the message so far, this one included")
    job_id: str = Field("", description="id of the job on that host; empty when it was refused unread")
    queue: str
    sent_at: datetime = Field(description="when the message was sent")
    started_at: datetime | None = None
    ended_at: datetime
    result: JobResult | None = Field(None, description="as in GET /v1/jobs/{id}")
    result_left_out: bool = Field(False, description="the result is too large to be sent; the host has it")
    error: ErrorBody | None = None


def result_of_job(message: HeldMessage, view: JobView, *, host: str, label: str) -> Notice:
    """The result of a job that ended. One that was interrupted, and is not tried again, has failed."""
    ended_at = view.ended_at or datetime.now(UTC)
    about: dict[str, Any] = {
        "kind": view.kind,
        "label": label,
        "code": view.error.code if view.error else "",
        "job_id": view.id,
        "started_at": view.started_at,
        "result": view.result,
        "error": view.error,
    }
    outcome = State.FAILED if view.state is State.INTERRUPTED else view.state
    return _notice(message, host, outcome, ended_at, about)


def result_of_refusal(message: HeldMessage, error: AmistreamError, *, host: str, label: str) -> Notice:
    """The result of a message for which no job was begun."""
    about: dict[str, Any] = {"label": label, "code": error.code, "error": ErrorBody(**error.as_dict())}
    return _notice(message, host, State.REFUSED, datetime.now(UTC), about)


def _notice(message: HeldMessage, host: str, outcome: State, ended_at: datetime, about: dict[str, Any]) -> Notice:
    model = ResultModel(
        id=f"{message.name if outcome is State.DONE else message.message_id}#{outcome.value}",
        message=message.message_id,
        job=message.name,
        outcome=outcome,
        host=host,
        attempt=message.attempt,
        queue=message.queue,
        sent_at=datetime.fromtimestamp(message.sent_at, UTC),
        ended_at=ended_at,
        **about,
    )
    document = _document(model)
    if len(document) > MOST_BYTES and model.result is not None:
        model = model.model_copy(update={"result": None, "result_left_out": True})
        document = _document(model)
    if len(document) > MOST_BYTES and model.error is not None:
        document = _document(model.model_copy(update={"error": _cut(model.error)}))
    return Notice(notice_id=model.id, outcome=outcome.value, document=document)


def _document(model: ResultModel) -> str:
    """The JSON, in ASCII: SQS and SNS refuse some letters for good."""
    return json.dumps(model.model_dump(mode="json"), separators=(",", ":"))


def _cut(error: ErrorBody) -> ErrorBody:
    texts = {name: f"{text[:_LONGEST_TEXT]}..." for name, text in error if len(text) > _LONGEST_TEXT}
    return error.model_copy(update=texts)
