"""The kinds of jobs and the work of each.

A new kind is a member of `events.JobKind`, a request, a run in a file of its own, and a line in `KINDS`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from amistream.events import JobKind
from amistream.jobs.bundle_run import BundleRun, remove_bundle
from amistream.jobs.job import Job
from amistream.jobs.records import JournalEntry, SealedPart
from amistream.jobs.run import Run, Shared


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """The work of one kind: a job, its journal entry and its parts become a run, or are removed.

    Both raise `AmistreamError`; `begin` does so before anything is made.
    """

    begin: Callable[[Job, JournalEntry, Sequence[SealedPart], Shared], Run]
    remove: Callable[[Job, JournalEntry, Sequence[SealedPart], Shared], Awaitable[None]]


KINDS: Mapping[JobKind, Kind] = {
    JobKind.BUNDLE: Kind(begin=BundleRun, remove=remove_bundle),
}
