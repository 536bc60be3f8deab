"""The messages of the queue: one job each, as JSON. Nothing here reads a clock or asks anybody.

    {"v": 1, "job": "web-2026-11-28", "kind": "bundle", "request": {...}, "label": "nightly", "deadline": "..."}

`request` has the fields of `POST /v1/jobs`. Unknown fields are refused, here as there. A message has no credentials;
`permissions` decides about endpoints, sources and destinations.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_core import from_json

from amistream.errors import MessageError, NewerMessageError, UsageError
from amistream.events import JobKind
from amistream.request import JobRequest, parse_request
from amistream.request.words import check_label
from amistream.settings import in_words
from amistream.values import KIB

VERSION: Final = 1
LARGEST = 64 * KIB
"""Bytes of a message, as of a request to the socket."""
NAME_PATTERN = "[A-Za-z0-9][A-Za-z0-9._:@+=/-]{0,127}"
"""Letters that a tag of AWS, the metadata of an object and a header can hold."""
NAME_WORDS = "1 to 128 letters, digits and . _ : @ + = / -, a letter or digit in front, and not the form of a job's id"
_HINT = 'a message is {"v": 1, "job": NAME, "kind": KIND, "request": {the fields of POST /v1/jobs}}'
_NAME = re.compile(NAME_PATTERN)
_JOB_ID = re.compile("[0-9]{8}-[0-9]{6}-[0-9a-f]{6}")
"""Jobs without a name tag with their id what they make: no name may claim that."""
_LONGEST_SHOWN = 80
_LONGEST_REASON = 1000


class MessageModel(BaseModel):
    """A message as it is sent. Unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    v: Literal[1] = Field(VERSION, description="Version of this form.")
    job: Annotated[str, Field(pattern=f"^{NAME_PATTERN}$")] = Field(
        description="Name of the job, by which it is known everywhere: the same name is the same job."
    )
    kind: JobKind = Field(description="Work of the job.")
    request: dict[str, Any] = Field(description="The fields of POST /v1/jobs for that kind.")
    label: Annotated[Annotated[str, AfterValidator(check_label)], Field(max_length=255)] = Field(
        "", description="Label of the job, repeated in the result."
    )
    deadline: AwareDatetime | None = Field(
        None, description="Time after which the job is not begun any more, with its zone: 2026-11-29T06:00:00Z."
    )

    @field_validator("job")
    @classmethod
    def _check_job(cls, value: str) -> str:
        if not _is_name(value):
            raise ValueError(f"it is not {NAME_WORDS}")
        return value


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A message that was read: the job's name and its request, validated as one of the socket is."""

    job: str
    request: JobRequest
    label: str = ""
    deadline: AwareDatetime | None = None

    def check_deadline(self, now: AwareDatetime) -> None:
        """Raise `MessageError` if it is too late to begin the job."""
        if self.deadline is not None and now > self.deadline:
            raise MessageError(
                "message.deadline",
                f"cannot begin the job {self.job}: its deadline was {self.deadline.isoformat()}",
                hint="send it again with a later deadline, or with none",
                field="deadline",
                job=self.job,
            )


def read_message(text: str) -> Message:
    """Read a message. Raises `MessageError` with the name of the job, as far as it can be read.

    One of a later version raises `NewerMessageError`.
    """
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > LARGEST:
        raise _too_large(size, "")
    values = _object(text)
    job = values.get("job")
    job = job if isinstance(job, str) and _is_name(job) else ""
    _check_version(values.get("v"), job)
    try:
        model = MessageModel.model_validate(values)
    except ValidationError as error:
        raise _invalid(error, job) from None
    kind = model.request.get("kind", model.kind)
    if kind != model.kind:
        raise _malformed(
            f"its request is of the kind {_shown(kind)}, and it is of the kind {model.kind.value!r}", job, "kind"
        )
    try:
        request = parse_request({**model.request, "kind": model.kind.value})
    except UsageError as error:
        message, hint = (_cut(each, _LONGEST_REASON) for each in (error.message, error.hint))
        raise MessageError(error.code, message, hint=hint, field=_cut(error.field, _LONGEST_SHOWN), job=job) from None
    return Message(job=job, request=request, label=model.label or request.label, deadline=model.deadline)


def write_message(message: Message) -> str:
    """The text of a message, which `read_message` reads. Raises `MessageError` for one that is too large."""
    request = message.request.model_dump(mode="json", exclude_unset=True, exclude={"kind", "label"})
    model = MessageModel(
        job=message.job,
        kind=message.request.kind,
        request=request,
        label=message.label or message.request.label,
        deadline=message.deadline,
    )
    text = model.model_dump_json(exclude_defaults=True, exclude={"v"})
    text = f'{{"v":{VERSION},{text[1:]}'
    if (size := len(text.encode())) > LARGEST:
        raise _too_large(size, message.job)
    return text


def _is_name(text: str) -> bool:
    return bool(_NAME.fullmatch(text)) and not _JOB_ID.fullmatch(text)


def _object(text: str) -> dict[str, Any]:
    try:
        # As the socket reads it: it also refuses a lone surrogate, which no result could hold.
        values = from_json(text, allow_inf_nan=False)
    except ValueError:
        raise _malformed("it is not JSON", "") from None
    if not isinstance(values, dict):
        raise _malformed("it is not a JSON object", "")
    return values


def _check_version(version: object, job: str) -> None:
    if type(version) is not int or version < VERSION:
        raise _malformed(f"its v is {_shown(version)}, and must be {VERSION}", job, "v")
    if version > VERSION:
        raise NewerMessageError(
            "message.newer",
            f"cannot read the message: it has version {_shown(version)}, and this program knows {VERSION}",
            hint="install a newer amistream on this host; the message is left to hosts that have one",
            field="v",
            job=job,
        )


def _invalid(error: ValidationError, job: str) -> MessageError:
    faults = error.errors(include_url=False, include_context=False)
    # A misspelt field may be the reason why another is missing.
    fault = min(faults, key=lambda each: each["type"] != "extra_forbidden")
    field = str(fault["loc"][0]) if fault["loc"] else ""
    if fault["type"] == "extra_forbidden":
        return _malformed(f"there is no field {_shown(field)}", job, _cut(field, _LONGEST_SHOWN))
    if fault["type"] == "missing":
        return _malformed(f"it has no {field}", job, field)
    reasons = {"job": f"it is not {NAME_WORDS}", "kind": f"it is none of {', '.join(JobKind)}"}
    return _malformed(f"{field}: {reasons.get(field) or _cut(in_words(fault), _LONGEST_REASON)}", job, field)


def _malformed(why: str, job: str, field: str = "") -> MessageError:
    return MessageError("message.malformed", f"cannot read the message: {why}", hint=_HINT, field=field, job=job)


def _too_large(size: int, job: str) -> MessageError:
    return MessageError(
        "message.too_large",
        f"cannot take the message: it has {size} bytes, and {LARGEST} are allowed",
        hint="leave out what has a default, or put long lists of patterns into fewer patterns",
        field="request",
        job=job,
    )


def _shown(value: object) -> str:
    return _cut(repr(value), _LONGEST_SHOWN)


def _cut(text: str, most: int) -> str:
    """A stranger's text, short enough for a message."""
    return text if len(text) <= most else f"{text[:most]}..."
