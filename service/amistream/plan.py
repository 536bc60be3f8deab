"""The figures and facts that every run of a job keeps to: the first run settles them, later ones read the journal.

The extents of a volume and its used blocks are found once, by the preflight of the first run, and are part of the plan.
All bytes outside them are zeros in the image, whatever the volume holds there: holes, and free blocks of file systems.
A later run finds them again only to see that no data has come up outside of the plan's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import BaseModel, ConfigDict, field_validator

from amistream.ports.registry import Registration
from amistream.ports.store import Identity
from amistream.stages.manifest import ImageFacts, WrappedKeys
from amistream.values import Checkpoint, Extent, LeftOut, PartDigest


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The figures of one pass. Sizes in bytes."""

    prefix: str
    part_size: int
    block_size: int
    workers: int
    level: int | None
    """Compression level 1 to 9; None: chosen for each block to fit the link."""
    upload_concurrency: int
    nice: int = 0
    extents: tuple[Extent, ...] | None = None
    """The ranges to archive, ascending; bytes outside read as zeros in the image. None: the whole volume."""
    used: tuple[Extent, ...] | None = None
    """The ranges within the extents that are read; the rest of these is archived as zeros. None: all of them."""
    left_out: LeftOut | None = None
    """None in journals that were written before the field existed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumption:
    """The point where a pass continues an earlier one of the same plan and key.

    `parts` are the parts up to the checkpoint, all stored; without a checkpoint the pass begins anew. `levels` are the
    compression levels of the blocks that were sent, by number. `mtime` is the one in the archive's header.
    """

    mtime: int
    checkpoint: Checkpoint | None = None
    parts: tuple[PartDigest, ...] = ()
    levels: Mapping[int, int] = field(default_factory=dict)


class Recorded(BaseModel):
    """A value that the journal holds as JSON."""

    model_config = ConfigDict(frozen=True, ser_json_bytes="base64", val_json_bytes="base64", defer_build=True)


class BundlingPlace(Recorded):
    """The settled facts of one destination."""

    wrapped: WrappedKeys
    region: str
    registration: Registration | None
    made_place: Identity | None = None
    """The directory that the job made, and removes again if it removes all that is in it."""

    @field_validator("made_place", mode="before")
    @classmethod
    def _without_identity(cls, value: object) -> object:
        # Version 2 of the journal recorded only that there is one: it may be another's by now, and stays.
        return None if isinstance(value, bool) else value


class TreeState(Recorded):
    """The metadata of a directory tree when it was walked: another digest means another image."""

    digest: str
    newest: int
    """The latest change of any file, by its ctime."""


class Bundling(Recorded):
    """The facts that were settled when bundling began and hold for every later pass."""

    plan: Plan
    image_size: int
    mtime: int
    facts: ImageFacts
    places: tuple[BundlingPlace, ...]
    tree: TreeState | None = None
    """None for other volumes than directories."""
    endpoint_url: str | None = None
    """Endpoint of S3 and EC2, '' for AWS; None in journals that were written before the field existed."""
