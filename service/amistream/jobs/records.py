"""What the journal holds of a job: what was settled for all its runs, its parts, and what is to become of it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from pydantic import BaseModel, ConfigDict

from amistream.events import JobKind, JobResult, JobView, PlaceResult
from amistream.plan import Bundling
from amistream.ports.store import whole_checksum
from amistream.request import JobRequest
from amistream.values import PartDigest, PartMark


class NextStep(StrEnum):
    """What another process is to do with a job whose process died."""

    WAITING = "waiting"
    """Nothing of it exists outside: begin anew."""
    KEPT = "kept"
    """Parts may exist: go on, or remove them."""
    CLEANING = "cleaning"
    """It was being removed: go on removing."""
    OVER = "over"
    """Nothing."""


class SealedPart(BaseModel):
    """A part that was, or is about to be, sent."""

    model_config = ConfigDict(frozen=True, ser_json_bytes="base64", val_json_bytes="base64")

    digest: PartDigest
    mark: PartMark
    checksum: str
    earlier: tuple[str, ...] = ()
    """Checksums under which it may be stored as well: it went up in another way before."""
    stored: bool = False

    @property
    def checksums(self) -> tuple[str, ...]:
        """However it was sent: by its size and one of these it is known again (`Stored.is_the`)."""
        return (self.checksum, *self.earlier, whole_checksum(self.digest.sha1))


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalEntry:
    """A job as the journal has it.

    With a `result` every part is stored where it could be. `manifests` were put, or were about to be, by number of the
    destination; `done` are the destinations that need nothing more. `images` are those that the job registered, ''
    where it is known that it did not; of any other destination with a manifest nothing is known.
    """

    kind: JobKind
    request: JobRequest
    view: JobView
    fate: NextStep
    by_itself: bool
    confined: bool
    idempotency_key: str
    bundling: Bundling | None
    manifests: dict[int, bytes]
    images: dict[int, str]
    done: dict[int, PlaceResult]
    result: JobResult | None
    parts: int
