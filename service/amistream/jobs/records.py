"""What the journal holds of a job: what was settled for all its runs, its parts, and what is to become of it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from pydantic import BaseModel, ConfigDict

from amistream.events import JobResult, JobView, PlaceResult
from amistream.jobs.request import JobRequest
from amistream.pipeline import Plan
from amistream.stages.manifest import ImageFacts, WrappedKeys
from amistream.stages.register import Registration
from amistream.stores.port import whole_checksum
from amistream.values import Mark, PartDigest


class Fate(StrEnum):
    """What another process is to do with a job whose process died."""

    WAITING = "waiting"
    """Nothing of it exists outside: begin anew."""
    KEPT = "kept"
    """Parts may exist: go on, or remove them."""
    CLEANING = "cleaning"
    """It was being removed: go on removing."""
    OVER = "over"
    """Nothing."""


class BundlingPlace(BaseModel):
    """What was settled for one destination."""

    model_config = ConfigDict(frozen=True, ser_json_bytes="base64", val_json_bytes="base64")

    wrapped: WrappedKeys
    region: str
    registration: Registration | None


class Bundling(BaseModel):
    """What was settled when bundling began and must be the same in every later pass."""

    model_config = ConfigDict(frozen=True, ser_json_bytes="base64", val_json_bytes="base64")

    plan: Plan
    image_size: int
    mtime: int
    facts: ImageFacts
    places: tuple[BundlingPlace, ...]
    endpoint_url: str | None = None
    """Where S3 and EC2 were asked, '' for AWS; None in journals that were written before it was kept."""


class SealedPart(BaseModel):
    """A part that was, or is about to be, sent."""

    model_config = ConfigDict(frozen=True, ser_json_bytes="base64", val_json_bytes="base64")

    digest: PartDigest
    mark: Mark
    checksum: str
    earlier: tuple[str, ...] = ()
    """Checksums under which it may be stored as well: it went up in another way before."""
    stored: bool = False

    @property
    def checksums(self) -> tuple[str, ...]:
        """However it was sent: by its size and one of these it is known again (`Stored.is_the`)."""
        return (self.checksum, *self.earlier, whole_checksum(self.digest.sha1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A job as the journal has it.

    With a `result` every part is stored where it could be. `manifests` were put, or were about to be, by number of the
    destination; `done` are the destinations that need nothing more. `images` are those that the job registered, ''
    where it is known that it did not; of any other destination with a manifest nothing is known.
    """

    request: JobRequest
    view: JobView
    fate: Fate
    by_itself: bool
    confined: bool
    idempotency_key: str
    bundling: Bundling | None
    manifests: dict[int, bytes]
    images: dict[int, str]
    done: dict[int, PlaceResult]
    result: JobResult | None
    parts: int
