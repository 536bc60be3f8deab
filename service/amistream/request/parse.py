"""Makes a request of a client's values, with errors that name the fields at fault."""

from __future__ import annotations

from typing import Any, TypeAlias, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from amistream.errors import UsageError
from amistream.events import JobKind
from amistream.request.bundle import BundleRequest, CheckRequest
from amistream.request.convert import ConvertCheckRequest, ConvertRequest
from amistream.request.migrate import MigrateRequest
from amistream.request.verify import VerifyRequest
from amistream.request.words import PATTERN_WORDS
from amistream.settings import in_words

JobRequest: TypeAlias = BundleRequest | ConvertRequest | VerifyRequest | MigrateRequest
"""The request of a job of any kind."""

REQUESTS: dict[JobKind, type[JobRequest]] = {
    JobKind.BUNDLE: BundleRequest,
    JobKind.CONVERT: ConvertRequest,
    JobKind.VERIFY: VerifyRequest,
    JobKind.MIGRATE: MigrateRequest,
}
"""The model of each kind's request."""

_Model = TypeVar("_Model", bound=BaseModel)


def parse_request(values: dict[str, Any]) -> JobRequest:
    """Make the request for a job of its `kind`, a bundle if it names none.

    Raises `UsageError` that names the fields at fault.
    """
    return parse_fields(REQUESTS[_kind_of(values)], values)


def parse_check_request(values: dict[str, Any]) -> CheckRequest | ConvertCheckRequest:
    """Make the request for the checks of a job. Raises as `parse_request` does."""
    if _kind_of(values) is JobKind.CONVERT:
        return parse_fields(ConvertCheckRequest, values)
    return parse_fields(CheckRequest, values)


def _kind_of(values: dict[str, Any]) -> JobKind:
    kind = values.get("kind", JobKind.BUNDLE)
    if kind not in list(JobKind):
        raise UsageError(
            "request.invalid",
            f"cannot take the request: kind: {kind!r} is none of {', '.join(JobKind)}",
            hint="GET /v1/openapi.json has the fields of each kind",
            field="kind",
        )
    return JobKind(kind)


def parse_bundle_request(values: dict[str, Any]) -> BundleRequest:
    """Make the request for a bundle job. Raises `UsageError` that names the fields at fault."""
    return parse_fields(BundleRequest, values)


def read_request(kind: JobKind, text: str) -> JobRequest:
    """The request of a job of this kind as `model_dump_json` wrote it. Raises ValueError."""
    return REQUESTS[kind].model_validate_json(text)


def parse_fields(model: type[_Model], values: dict[str, Any]) -> _Model:
    """Make a request, or a part of one. Raises `UsageError` that names the fields at fault."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        faults = error.errors(include_url=False, include_context=False)
        # A misspelt field may be the reason why another is missing.
        faults.sort(key=lambda fault: fault["type"] != "extra_forbidden")
        reasons: dict[str, str] = {}
        for fault in faults:
            reasons.setdefault(str(fault["loc"][0]) if fault["loc"] else "", _reason(fault))
        (field, first), *others = reasons.items()
        unknown = faults[0]["type"] == "extra_forbidden"
        hint = (
            "GET /v1/openapi.json lists the fields; check the spelling"
            if unknown
            else f"{_help_of(model)} says what an option takes, GET /v1/openapi.json what a field"
        )
        raise UsageError(
            "request.unknown_field" if unknown else "request.invalid",
            f"cannot take the request: {first}",
            hint="\n".join([hint, *(f"also: {reason}" for _, reason in others)]),
            field=field,
        ) from None


def _help_of(model: type[BaseModel]) -> str:
    kinds: dict[JobKind, type[BaseModel]] = {**REQUESTS, JobKind.CONVERT: ConvertCheckRequest}
    kinds[JobKind.BUNDLE] = CheckRequest
    kind = next((kind for kind, request in kinds.items() if issubclass(model, request)), None)
    # Commands that start no job, such as `register`, take some of the fields.
    return f"`amistream {kind} --help`" if kind else "the command with --help"


def _reason(fault: ErrorDetails) -> str:
    field = str(fault["loc"][0]) if fault["loc"] else ""
    if fault["type"] == "extra_forbidden":
        return f"there is no field {field!r}"
    pattern = fault["type"] == "string_pattern_mismatch"
    reason = f"{fault['input']!r} is not {PATTERN_WORDS[field]}" if pattern else in_words(fault)
    return f"{field}: {reason}" if field else reason
