"""The figures and facts that every run of a job keeps to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import BaseModel, ConfigDict

from amistream.ports.registry import Registration
from amistream.stages.manifest import ImageFacts, WrappedKeys
from amistream.values import Checkpoint, Extent, PartDigest


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The figures of one pass. Sizes in bytes."""

    prefix: str
    part_size: int
    block_size: int
    workers: int
    level: int | None
    """Compression level 1 to 9; None: the one that fits the link, block by block."""
    upload_concurrency: int
    nice: int = 0
    extents: tuple[Extent, ...] | None = None
    """Where the volume holds data; None: read and archive all of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumption:
    """What an earlier pass over the volume, under the same plan and key, left to go on from.

    `parts` are the parts up to the checkpoint, all stored; without a checkpoint the pass begins anew. `levels` are
    those at which blocks that were sent were compressed, by number. `mtime` is the one in the archive's header.
    """

    mtime: int
    checkpoint: Checkpoint | None = None
    parts: tuple[PartDigest, ...] = ()
    levels: Mapping[int, int] = field(default_factory=dict)


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
