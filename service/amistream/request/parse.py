"""Makes a request of a client's values, with errors that name the fields at fault."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from amistream.errors import UsageError
from amistream.events import JobKind
from amistream.request.bundle import BundleRequest, CheckRequest
from amistream.request.words import PATTERN_WORDS
from amistream.settings import in_words

if TYPE_CHECKING:
    from amistream.request.convert import ConvertCheckRequest, ConvertRequest
    from amistream.request.migrate import MigrateRequest
    from amistream.request.verify import VerifyRequest

JobRequest: TypeAlias = "BundleRequest | ConvertRequest | VerifyRequest | MigrateRequest"
"""The request of a job of any kind."""

_Model = TypeVar("_Model", bound=BaseModel)

FIELD_HELP = ", GET /v1/openapi.json what a field"
"""End of a hint, for clients of the socket: a command has options only."""


def model_of(kind: JobKind) -> type[JobRequest]:
    """The model of a kind's request. Each is loaded by its first request: a command takes one."""
    match kind:
        case JobKind.BUNDLE:
            return BundleRequest
        case JobKind.CONVERT:
            from amistream.request.convert import ConvertRequest  # noqa: PLC0415

            return ConvertRequest
        case JobKind.VERIFY:
            from amistream.request.verify import VerifyRequest  # noqa: PLC0415

            return VerifyRequest
        case JobKind.MIGRATE:
            from amistream.request.migrate import MigrateRequest  # noqa: PLC0415

            return MigrateRequest


def parse_request(values: dict[str, Any]) -> JobRequest:
    """Make the request for a job of its `kind`, a bundle if it names none.

    Raises `UsageError` that names the fields at fault.
    """
    return parse_fields(model_of(_kind_of(values)), values)


def parse_check_request(values: dict[str, Any]) -> CheckRequest | ConvertCheckRequest:
    """Make the request for the checks of a job. Raises as `parse_request` does."""
    if _kind_of(values) is JobKind.CONVERT:
        from amistream.request.convert import ConvertCheckRequest  # noqa: PLC0415 - as in `model_of`

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
    return model_of(kind).model_validate_json(text)


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
            else f"{_help_of(model)} says what an option takes{FIELD_HELP}"
        )
        raise UsageError(
            "request.unknown_field" if unknown else "request.invalid",
            f"cannot take the request: {first}",
            hint="\n".join([hint, *(f"also: {reason}" for _, reason in others)]),
            field=field,
        ) from None


def _help_of(model: type[BaseModel]) -> str:
    kind = model.model_fields.get("kind")
    # Commands that start no job, such as `register`, take some of the fields.
    return f"`amistream {get_args(kind.annotation)[0]} --help`" if kind else "the command with --help"


def _reason(fault: ErrorDetails) -> str:
    field = str(fault["loc"][0]) if fault["loc"] else ""
    if fault["type"] == "extra_forbidden":
        return f"there is no field {field!r}"
    pattern = fault["type"] == "string_pattern_mismatch"
    reason = f"{fault['input']!r} is not {PATTERN_WORDS[field]}" if pattern else in_words(fault)
    return f"{field}: {reason}" if field else reason
