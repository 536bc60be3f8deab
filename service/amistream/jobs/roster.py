"""The jobs that a queue remembers: by id, by idempotency key and by destination. It runs nothing and writes nothing.

Ended jobs are kept so that they can be listed: the newest with all their events, the others as text (`Job.shelve`), as
many as the journal keeps.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Container
from datetime import datetime

from amistream.errors import ConflictError, NotFoundError, UsageError
from amistream.jobs.job import Job
from amistream.jobs.journal import REMEMBERED
from amistream.jobs.records import JournalEntry
from amistream.request import JobRequest
from amistream.states import UNFINISHED, JobKind, State, ids_like
from amistream.units import time_text

LAST = "last"
"""Stands for the newest job."""
FRESH = 16
"""Newest ended jobs that are kept with all their events, for clients that are about to read them."""


class Roster:
    """`default_prefix` is that of requests without one; `option` completes commands in hints (`Journal.option`)."""

    def __init__(self, *, default_prefix: str, option: str) -> None:
        self._default_prefix = default_prefix
        self._option = option
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._keys: dict[str, str] = {}

    def __contains__(self, job_id: str) -> bool:
        return job_id in self._jobs

    def add(self, job: Job, idempotency_key: str = "") -> None:
        """Add a job, in place of its earlier run if it had one."""
        self._jobs[job.id] = job
        if idempotency_key:
            self._keys[idempotency_key] = job.id

    def remember(self, entry: JournalEntry) -> Job:
        """Add a job of another process as the journal has it."""
        job = Job.remembered(entry)
        self.add(job, entry.idempotency_key)
        return job

    def forget(self, job_id: str) -> None:
        del self._jobs[job_id]
        self._keys = {key: known for key, known in self._keys.items() if known != job_id}

    def get(self, job_id: str) -> Job:
        """The job; raises `NotFoundError`."""
        try:
            return self._jobs[job_id]
        except KeyError:
            raise NotFoundError(
                "job.unknown",
                f"cannot find a job {job_id!r}",
                hint="`amistream jobs` lists the daemon's, `amistream jobs --in-process` those without one",
                field="id",
            ) from None

    def find(self, word: str, user: int | None = None) -> Job:
        """The job of this id; also the only one whose id, or its last six letters, begin with the word.

        `last` is the newest job of `user`, or of anybody without one. Raises `NotFoundError` or `UsageError`.
        """
        if word == LAST:
            newest = next((job for job in reversed(self._jobs.values()) if user in (None, job.user)), None)
            if newest is not None:
                return newest
            raise NotFoundError(
                "job.unknown",
                "cannot find the last job: there is none" + f" of user {user}" * (user is not None),
                hint="`amistream jobs` lists every job",
                field="id",
            )
        found = ids_like(word, self._jobs)
        if len(found) > 1:
            raise UsageError(
                "job.ambiguous",
                f"cannot choose a job: {len(found)} have an id like {word!r}",
                hint=f"write more letters; the newest of them is {found[-1]}",
                field="id",
            )
        return self.get(found[0] if found else word)

    def named(self, name: str) -> Job | None:
        """The newest job of this name."""
        return next((job for job in reversed(self._jobs.values()) if job.name == name), None) if name else None

    def jobs(self, state: State | None = None) -> list[Job]:
        """Every job, oldest first; with `state` only those in it."""
        return [job for job in self._jobs.values() if state in (None, job.state)]

    def chosen(self, states: Collection[str], label: str | None, limit: int | None) -> list[Job]:
        """The newest `limit` jobs, oldest first, in one of these states and with this label.

        `UNFINISHED` is the state of those that can be resumed or cleaned, whatever their end. No state is every one.
        """
        found = [
            job
            for job in self._jobs.values()
            if (not states or job.state in states or (UNFINISHED in states and job.resumable))
            and label in (None, job.request.label)
        ]
        return found if limit is None else found[max(0, len(found) - limit) :]

    def with_key(self, idempotency_key: str, request: JobRequest) -> Job | None:
        """The job that came with this key. Raises `ConflictError` when its request was another."""
        if idempotency_key not in self._keys:
            return None
        known = self.get(self._keys[idempotency_key])
        if known.request != request:
            raise ConflictError(
                "job.key_reused",
                f"cannot take the job: job {known.id} has the same Idempotency-Key and another request",
                hint="send a new key with a new request",
            )
        return known

    def check_destinations(self, request: JobRequest) -> None:
        """Raise `ConflictError` when another job writes to a destination of the request, or has kept parts there.

        A conversion has no destination; it is to make an AMI whose name no other conversion may have.
        """
        for job in self._jobs.values():
            if not self.overlap(job.request, request):
                continue
            if not job.state.ended:
                raise writing_there(job.id, request, f"amistream watch {job.id}")
            if job.resumable or job.is_taken:
                raise kept_there(job.id, self._option, request, job.looks_again_at)

    def overlap(self, one: JobRequest, other: JobRequest) -> bool:
        """The requests have a destination and prefix in common, or the name of the AMI of a conversion."""
        return not self._names(one).isdisjoint(self._names(other))

    def put_away(self, except_ids: Container[str]) -> None:
        """Shelve the jobs that ended a while ago, and forget the oldest; not those whose task still runs."""
        ended = [
            job
            for job in self._jobs.values()
            if job.state.ended and not job.resumable and not job.is_taken and job.id not in except_ids
        ]
        for job in ended[:-FRESH]:
            job.shelve()
        for job in ended[: max(0, len(self._jobs) - REMEMBERED)]:
            self.forget(job.id)

    def _names(self, request: JobRequest) -> set[tuple[str, str]]:
        if request.kind is JobKind.BUNDLE or request.kind is JobKind.MIGRATE:
            return {(destination, request.prefix or self._default_prefix) for destination in request.destinations}
        if request.kind is JobKind.CONVERT and request.ami_name is not None:
            return {(f"AMI in {request.region or ''} at {request.endpoint_url or ''}", request.ami_name)}
        return set()


def writing_there(job_id: str, request: JobRequest, where: str) -> ConflictError:
    """Another job writes to a destination of the request; `where` completes the hint to wait for it."""
    field, what, other = _in_common(request)
    verb = "is writing to" if field == "destinations" else "is making"
    return ConflictError(
        "job.same_destination",
        f"cannot take the job: job {job_id} {verb} {what} already",
        hint=f"wait for it ({where}), or choose another {other}",
        field=field,
    )


def kept_there(job_id: str, option: str, request: JobRequest, looks_again_at: datetime | None) -> ConflictError:
    """An unfinished job keeps its parts at a destination of the request, or something of it may still appear there."""
    field, what, other = _in_common(request)
    if looks_again_at is not None:
        return ConflictError(
            "job.kept_there",
            f"cannot take the job: something of job {job_id} may still appear at its destination",
            hint=f"wait until {time_text(looks_again_at)} (if the job is still there then: amistream cancel "
            f"{job_id}{option}), or choose another {other}",
            field=field,
        )
    why = f"its destination holds the parts of the unfinished job {job_id}"
    if field != "destinations":
        why = f"{what} is that of the unfinished job {job_id}"
    return ConflictError(
        "job.kept_there",
        f"cannot take the job: {why}",
        hint=f"finish that job (amistream resume {job_id}{option}), remove it (amistream cancel {job_id}{option}), "
        f"or choose another {other}",
        field=field,
    )


def _in_common(request: JobRequest) -> tuple[str, str, str]:
    """The field that two requests have in common, its value in words, and words for another one."""
    if request.kind is JobKind.CONVERT:
        return "ami_name", f"the AMI {request.ami_name!r}", "--ami-name"
    other = "destination" if request.kind is JobKind.MIGRATE else "destination or prefix"
    return "destinations", request.destinations[0], other
