"""Every failure that a person sees: one root class, a stable code, an exit status and a hint.

Messages read "cannot <do what>: <why>", hints say what to do. Neither ever holds a key, a credential or payload.
Foreign exceptions (OSError, botocore, aiohttp) are translated once, where they enter: in `source`, `stores` and
`aws`.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import ClassVar

from amistream.values import as_utf8


class AmistreamError(Exception):
    """The root. `code` is stable and made for programs, `field` names the input at fault, if one is."""

    exit_status: ClassVar[int] = 1
    http_status: ClassVar[HTTPStatus] = HTTPStatus.INTERNAL_SERVER_ERROR

    def __init__(self, code: str, message: str, *, hint: str = "", field: str = "") -> None:
        super().__init__(as_utf8(message))
        self.code = code
        self.message = as_utf8(message)
        self.hint = as_utf8(hint)
        self.field = as_utf8(field)

    def __str__(self) -> str:
        """One paragraph for a person: what happened, then what to do."""
        return f"{self.message}\n{self.hint}" if self.hint else self.message

    def as_dict(self) -> dict[str, str]:
        """The `error` object of the socket API and of `--json`."""
        return {"code": self.code, "message": self.message, "hint": self.hint, "field": self.field}


class UsageError(AmistreamError):
    """The caller's words are off: an unknown option, field or value. Caller's fault."""

    exit_status = 2
    http_status = HTTPStatus.UNPROCESSABLE_ENTITY


class NotFoundError(UsageError):
    """The named job (or path of the API) does not exist. Caller's fault."""

    http_status = HTTPStatus.NOT_FOUND


class ConflictError(UsageError):
    """The request is sound but does not fit the state of things, such as cancelling an ended job."""

    http_status = HTTPStatus.CONFLICT


class AccessDeniedError(UsageError):
    """The peer on the socket may not do this. Administrator's to decide."""

    http_status = HTTPStatus.FORBIDDEN


class BusyError(AmistreamError):
    """The daemon takes no more work now: it is stopping, or its queue is full. Nobody's fault; try again later."""

    exit_status = 4
    http_status = HTTPStatus.SERVICE_UNAVAILABLE


class RefusedError(AmistreamError):
    """The preflight found that the job cannot succeed; nothing was read or written. Input's or set-up's fault."""

    exit_status = 3
    http_status = HTTPStatus.UNPROCESSABLE_ENTITY


class JobError(AmistreamError):
    """A job failed after it began; what it had made was removed."""

    exit_status = 4


class SourceError(JobError):
    """The volume could not be read to its end, or changed while it was read."""


class StoreError(JobError):
    """The destination refused or lost something, and repeating did not help."""

    def __init__(self, code: str, message: str, *, hint: str = "", field: str = "", transient: bool = False) -> None:
        super().__init__(code, message, hint=hint, field=field)
        self.transient = transient


class RegisterError(JobError):
    """EC2 did not register the image; the bundle itself is complete and is kept."""


class DifferenceError(AmistreamError):
    """A verification found that what is stored is not what it should be."""

    exit_status = 5


class DaemonUnreachableError(AmistreamError):
    """Nothing answers on the daemon's socket."""

    exit_status = 6


def system_error(error: OSError) -> RefusedError:
    """What the system refused, where nobody looked more closely: mostly about a file that the user named."""
    if not error.filename:
        return RefusedError(
            "system.failed",
            f"cannot go on: {error.strerror or error}",
            hint="AMISTREAM_DEBUG=1 shows where it happened",
        )
    return RefusedError(
        "file.failed",
        f"cannot use {error.filename}: {error.strerror}",
        hint=f"check the path, its permissions, and those of the directories above it: namei -l {error.filename}",
    )


def bug_error(error: Exception) -> AmistreamError:
    """What a person is told of an exception that nobody foresaw."""
    return AmistreamError(
        "internal.bug",
        f"cannot go on: an error in amistream itself ({type(error).__name__})",
        hint="please report it with the daemon's log of this job",
    )


EXIT_DONE = 0
EXIT_BUG = 1
EXIT_INTERRUPTED = 130


def first_cause(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first real error inside a task group's: what the user should see."""
    found = errors.exceptions[0]
    return first_cause(found) if isinstance(found, BaseExceptionGroup) else found
