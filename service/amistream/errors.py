"""Every failure that a user sees: one root class with a stable code, an exit status and a hint.

Messages read "cannot <do what>: <why>"; hints say how to fix it. Neither ever holds a key, a credential or payload.
Foreign exceptions (OSError, botocore, aiohttp) are translated once, where they enter the program. Codes are for users
and their scripts. The program itself decides by class or by a declared attribute, never by comparing a code.
"""

from __future__ import annotations

import errno
from http import HTTPStatus
from typing import ClassVar, Self

from amistream.text import as_utf8, quoted


class AmistreamError(Exception):
    """The root. `code` is stable, for programs; `field` names the input at fault, if there is one.

    `request_id` is that of the request that AWS refused, which AWS support asks for.
    """

    exit_status: ClassVar[int] = 1
    http_status: ClassVar[HTTPStatus] = HTTPStatus.INTERNAL_SERVER_ERROR
    is_failure: ClassVar[bool] = True
    """False: nothing went wrong, and the message has no program's name before it."""

    def __init__(self, code: str, message: str, *, hint: str = "", field: str = "", request_id: str = "") -> None:
        super().__init__(as_utf8(message))
        self.request_id = request_id
        self.code = code
        self.message = as_utf8(message)
        self.hint = as_utf8(hint)
        self.field = as_utf8(field)

    def __str__(self) -> str:
        """Message and hint, on a line each."""
        return f"{self.message}\n{self.hint}" if self.hint else self.message

    @property
    def subject(self) -> str:
        """The part of the program or of AWS that failed: the code up to its first dot."""
        return self.code.partition(".")[0]

    def reworded(self, *, message: str = "", hint: str = "") -> Self:
        """A copy of the same class with another message or hint."""
        copy = type(self).__new__(type(self), message or self.message)
        copy.__dict__.update(self.__dict__)
        copy.message, copy.hint = as_utf8(message or self.message), as_utf8(hint or self.hint)
        return copy

    def as_dict(self) -> dict[str, str]:
        """The `error` object of the socket API and of `--json`."""
        return {
            "code": self.code,
            "message": self.message,
            "hint": self.hint,
            "field": self.field,
            "request_id": self.request_id,
        }


class UsageError(AmistreamError):
    """The request has an unknown option or field, or an invalid value. The caller's fault."""

    exit_status = 2
    http_status = HTTPStatus.UNPROCESSABLE_ENTITY


class NotFoundError(UsageError):
    """The named job, or path of the API, does not exist. The caller's fault."""

    http_status = HTTPStatus.NOT_FOUND


class ConflictError(UsageError):
    """The request is valid but does not fit the present state, such as cancelling an ended job."""

    http_status = HTTPStatus.CONFLICT


class JobEndedError(ConflictError):
    """The job has ended already."""


class AccessDeniedError(UsageError):
    """The peer on the socket lacks permission. The administrator decides."""

    http_status = HTTPStatus.FORBIDDEN


class BusyError(AmistreamError):
    """The daemon accepts no more jobs now: it is stopping, or its queue is full. Nobody's fault; try again later."""

    exit_status = 4
    http_status = HTTPStatus.SERVICE_UNAVAILABLE


class RefusedError(AmistreamError):
    """A check found that the job cannot succeed; nothing was changed. The input or the set-up is at fault."""

    exit_status = 3
    http_status = HTTPStatus.UNPROCESSABLE_ENTITY


class BundleExistsError(RefusedError):
    """The destination holds a bundle of this name already."""


class NoBucketError(RefusedError):
    """The bucket does not exist."""


class KeyMismatchError(RefusedError):
    """The private key does not belong to the certificate."""


class UnconfirmedError(RefusedError):
    """The user did not answer yes."""


class MessageError(RefusedError):
    """A message of the queue cannot be taken. The sender's fault. `job` is the name of its job, '' if it has none."""

    def __init__(self, code: str, message: str, *, hint: str = "", field: str = "", job: str = "") -> None:
        super().__init__(code, message, hint=hint, field=field)
        self.job = job


class NewerMessageError(MessageError):
    """The message is in a later version's form: other hosts may know it. Nobody's fault."""


class JobError(AmistreamError):
    """A job failed after it began; what it had stored was removed, or is kept for `resume`."""

    exit_status = 4


class LateError(JobError):
    """A removal found nothing more, but an unanswered request may still make something."""


class JournalError(JobError):
    """The journal cannot be read or written."""


class FencedError(JobError):
    """Another host may run the job: its lease is not confirmed, or its claim is another host's. All stays as it is."""


class NotJournaledError(JournalError):
    """The journal has no entry for the job."""


class SourceError(JobError):
    """The volume could not be read to its end, or changed while it was read."""


class StoreError(JobError):
    """The destination, or AWS, refused a request or lost data. `transient`: repeating may help."""

    def __init__(
        self,
        code: str,
        message: str,
        *,
        hint: str = "",
        field: str = "",
        request_id: str = "",
        transient: bool = False,
    ) -> None:
        super().__init__(code, message, hint=hint, field=field, request_id=request_id)
        self.transient = transient

    def permanent(self) -> Self:
        """A copy that is not to be repeated."""
        copy = self.reworded()
        copy.transient = False
        return copy


class TakenError(StoreError):
    """Another object is stored under the name."""


class LostError(StoreError):
    """A stored part no longer exists, or has other content."""


class PreconditionError(StoreError):
    """S3 refused a write because an object of that name exists: a rival's, or ours from a lost answer."""


class RivalError(StoreError):
    """A claim is not as it was when it was read: another process has put, replaced or removed it since."""


class NoObjectError(StoreError):
    """The object does not exist."""


class NoUploadError(StoreError):
    """The multipart upload no longer exists."""


class DeniedError(StoreError):
    """The credentials do not permit the request."""


class NotSupportedError(StoreError):
    """The endpoint does not implement the request."""


class NoSnapshotError(StoreError):
    """The snapshot does not exist."""


class NotPendingError(StoreError):
    """The snapshot is in another state than the request needs, such as complete or failed."""


class InUseError(StoreError):
    """An AMI uses the snapshot."""


class StaleTokenError(StoreError):
    """The token of a block or of a page is no longer valid; a new listing gives new ones."""


class StaleHandleError(StoreError):
    """The message is no longer held: its time ran out, it was deleted, or another host received it."""


class UnfitMessageError(StoreError):
    """A message, or the sum of several in one request, is not what the queue takes: the fault of whoever made it."""


class ThrottledError(StoreError):
    """The service asks for fewer requests. Transient: slower requests succeed."""


class UnreachedError(StoreError):
    """Nothing answers there, or nobody knows the host's name: the request has not arrived. Transient."""


class StalledError(StoreError):
    """An attempt was given up because there was no progress. Transient."""


class NotVisibleError(StoreError):
    """The thing was made moments ago, and the service does not know it everywhere yet. Transient for minutes."""


class NameTakenError(StoreError):
    """Another AMI of the account has the name."""


class ShortageError(JobError):
    """The process gets no more memory, files or threads: a limit is too low, or the host is too small. Mendable."""

    http_status = HTTPStatus.SERVICE_UNAVAILABLE


class RegisterError(JobError):
    """EC2 did not register the AMI; the bundle is complete and kept."""


class DifferenceError(AmistreamError):
    """A verification found that the stored bundle differs from its manifest."""

    exit_status = 5


class DaemonUnreachableError(AmistreamError):
    """Nothing answers on the daemon's socket."""

    exit_status = 6


def system_error(error: OSError) -> RefusedError:
    """Translate an OSError that no closer code translated: mostly about a file that the user named."""
    if not error.filename:
        return RefusedError(
            "system.failed",
            f"cannot continue: {error.strerror or error}",
            hint="AMISTREAM_DEBUG=1 shows where it happened",
        )
    return RefusedError(
        "file.failed",
        f"cannot use {error.filename}: {error.strerror}",
        hint=f"check its permissions, and those of the directories above it: namei -l {quoted(error.filename)}",
    )


def shortage_of(error: Exception) -> ShortageError | None:
    """The error for an exception that says that the process gets no more memory, files or threads."""
    number = error.errno if isinstance(error, OSError) else None
    if isinstance(error, MemoryError) or number == errno.ENOMEM:
        return ShortageError(
            "host.no_memory",
            "cannot continue: the process gets no more memory",
            hint="raise its limit (MemoryMax= of the unit, ulimit -v), or give a smaller memory_limit or max_jobs",
        )
    if number in {errno.EMFILE, errno.ENFILE}:
        return ShortageError(
            "host.no_descriptors",
            "cannot continue: the process can open no more files",
            hint="raise its limit (LimitNOFILE= of the unit, ulimit -n), or run fewer jobs at once: max_jobs",
        )
    if isinstance(error, RuntimeError) and str(error) == "can't start new thread":
        return ShortageError(
            "host.no_threads",
            "cannot continue: the process can start no more threads",
            hint="raise its limit (TasksMax= of the unit, ulimit -u), or give a smaller max_jobs or workers",
        )
    return None


def bug_error(error: Exception) -> AmistreamError:
    """The error to show for an unexpected exception."""
    return shortage_of(error) or AmistreamError(
        "internal.bug",
        f"cannot continue: an error in amistream itself ({type(error).__name__})",
        hint="please report it with the log of this job",
    )


EXIT_DONE = 0
EXIT_INTERRUPTED = 130
EXIT_STATUSES = {
    EXIT_DONE: "done",
    1: "a bug in amistream, or the result could not be written",
    2: "an invalid command, setting or job id, another user's job, or a conflict with a job",
    3: "refused by a check or not confirmed, before anything was changed",
    4: "the job or a request to AWS failed, the job was cancelled, or the daemon accepts no more jobs",
    5: "data differs from the manifest, also if `delete` therefore kept it",
    6: "the daemon is not reachable",
    EXIT_INTERRUPTED: "interrupted",
}
"""The meanings of all statuses, for the manual."""


def first_cause(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first real error inside a task group's: the one to show to the user."""
    found = errors.exceptions[0]
    return first_cause(found) if isinstance(found, BaseExceptionGroup) else found
