"""The journal's records of a job: its request and view, the facts for all its runs, its parts, and its next step."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from pydantic import TypeAdapter

from amistream.events import BundleResult, ErrorBody, JobKind, JobView, PlaceResult
from amistream.plan import Bundling, Recorded
from amistream.ports.store import whole_checksum
from amistream.ports.unanswered import Late
from amistream.request import JobRequest
from amistream.values import PartDigest, PartMark

_LATE: TypeAdapter[dict[int, Late]] = TypeAdapter(dict[int, Late])


def late_text(late: Mapping[int, Late]) -> str:
    """The things that may still appear, by number of the destination, as JSON."""
    return _LATE.dump_json(dict(late)).decode()


def read_late(text: str) -> dict[int, Late]:
    """The things that `late_text` wrote. Raises ValueError."""
    return _LATE.validate_json(text)


STORED_BLOCK = struct.Struct("<I32s")
"""Index and SHA-256 of a stored block of a conversion."""


class NextStep(StrEnum):
    """The next step of a job whose process died, for the process that takes it up."""

    WAITING = "waiting"
    """Nothing exists outside the journal: begin anew."""
    KEPT = "kept"
    """Parts or blocks may exist: continue, or remove them."""
    CLEANING = "cleaning"
    """A removal began: finish it."""
    OVER = "over"
    """Nothing."""


class SealedPart(Recorded):
    """A part that was sent, or is about to be."""

    digest: PartDigest
    mark: PartMark
    checksum: str
    earlier: tuple[str, ...] = ()
    """Checksums under which it may be stored as well, from uploads in another way."""
    stored: bool = False

    @property
    def checksums(self) -> tuple[str, ...]:
        """All checksums that a store may show for it, however it was sent (`Stored.is_the`)."""
        return (self.checksum, *self.earlier, whole_checksum(self.digest.sha1))


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalEntry:
    """A job as the journal has it.

    With a `result` every part is stored at every destination that did not fail. `manifests`, by number of the
    destination, were put or were about to be; `done` are the finished destinations. `images` are the ids of the job's
    AMIs, '' if it is known that none was registered; without an entry nothing is known. `late`, by number of the
    destination, may still appear. `failure` is why the run failed whose removal is not finished.

    A conversion has a `ConversionRecord`, a migration a `MigrationRecord`, instead of those that are about destinations
    and parts; of a migration `late` has its destination as number 0.
    """

    kind: JobKind
    request: JobRequest
    view: JobView
    next_step: NextStep
    by_itself: bool
    confined: bool
    user: int | None
    idempotency_key: str
    name: str
    bundling: Bundling | None
    manifests: dict[int, bytes]
    images: dict[int, str]
    done: dict[int, PlaceResult]
    result: BundleResult | None
    late: dict[int, Late]
    failure: ErrorBody | None
    kept: int
    """Parts that were sent or about to be, or stored blocks of a conversion."""
