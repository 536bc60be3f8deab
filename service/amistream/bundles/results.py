"""Results of the commands on existing bundles, as `--json` writes them. Sizes in bytes; costs in US dollars a month."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from amistream.errors import DifferenceError
from amistream.events import ErrorBody
from amistream.reports import Difference, Signature


class _Result(BaseModel):
    model_config = ConfigDict(frozen=True, defer_build=True)


class Removed(_Result):
    """The deleted objects; with `dry_run`, the objects that a removal would delete.

    `kept`: objects with a part's name but other contents. `missing`: parts that did not exist.
    """

    manifest: str
    dry_run: bool
    deregistered: tuple[str, ...]
    deleted: tuple[str, ...]
    deleted_size: int
    kept: tuple[str, ...]
    missing: tuple[str, ...]


class Deregistered(_Result):
    image_id: str
    location: str
    region: str
    removed: Removed | None


class ListedBundle(_Result):
    """A bundle. `stored` includes the manifest; `images` is None if unknown; a whole bundle has no `problem`."""

    manifest: str
    name: str
    made_at: datetime
    image_size: int
    stored: int
    parts: int
    missing: tuple[str, ...]
    problem: str
    images: tuple[str, ...] | None
    cost: float | None


class JudgedBundle(_Result):
    """A bundle and what a retention rule says of it. `reason`: why it stays, or empty."""

    manifest: str
    group: str
    made_at: datetime
    stored: int
    images: tuple[str, ...] | None
    deletes: bool
    reason: str


class PruneFailure(_Result):
    """A bundle that was to be deleted and was not."""

    manifest: str
    error: ErrorBody


class Pruned(_Result):
    """The bundles of a folder, the verdict on each, and what was deleted; nothing with `dry_run`."""

    location: str
    dry_run: bool
    bundles: tuple[JudgedBundle, ...]
    removed: tuple[Removed, ...]
    failed: tuple[PruneFailure, ...]


class ListedParts(_Result):
    """Parts in no manifest."""

    parts: str
    count: int
    stored: int
    newest_at: datetime
    cost: float | None


class ListedImage(_Result):
    """An AMI whose manifest does not exist."""

    image_id: str
    location: str


class Leftover(_Result):
    """Something that a process left when it was killed, or a request that was never answered.

    `kind`: objects of a `probe`, an unfinished `upload`, or the `claim` of a job that is over. `objects` ends in * for
    several. `stored` is None for an upload. `remove` is a command.
    """

    kind: Literal["probe", "upload", "claim"]
    objects: str
    count: int
    stored: int | None
    newest_at: datetime
    remove: str


class Inventory(_Result):
    """The whole listing. `cost`: the stored bytes at the region's list price for standard storage; None if unknown."""

    location: str
    region: str
    bundles: tuple[ListedBundle, ...]
    orphan_parts: tuple[ListedParts, ...]
    orphan_images: tuple[ListedImage, ...]
    leftovers: tuple[Leftover, ...] = ()
    stored: int
    cost: float | None
    price: float | None
    price_as_of: str


class Copied(_Result):
    """A copy of a volume. `data_size`: its bytes outside holes."""

    source: str
    destination: str
    image_size: int
    data_size: int
    elapsed_s: float


class ConvertibleBundle(_Result):
    """A bundle that may become an AMI on EBS. `image_id`: the AMI that was made of it, or ''."""

    manifest: str
    image_size: int
    image_id: str
    stored: int = Field(0, description="bytes of its objects")
    problem: str = Field("", description="why it cannot be converted, or empty")


class BundleFacts(_Result):
    """The content of a manifest, and what the caller's account has of it in the bucket's region; None if unknown.

    `images`: AMIs that are registered from it; `converted` and `snapshots`: AMIs and snapshots on EBS made of it.
    """

    type: Literal["bundle"] = "bundle"
    manifest: str
    bundler: str
    bundler_version: str
    account: str
    architecture: str
    kind: str
    image_name: str
    image_size: int
    bundled_size: int
    parts: int
    archive_sha1: str
    kernel: str
    ramdisk: str
    block_device_mappings: dict[str, str]
    product_codes: tuple[str, ...]
    ancestors: tuple[str, ...]
    images: tuple[str, ...] | None
    converted: tuple[str, ...] | None
    snapshots: tuple[str, ...] | None


class Unbundled(_Result):
    """An image that was unbundled and verified. `data_size`: its bytes outside the archive's holes."""

    manifest: str
    destination: str
    image_size: int
    data_size: int
    archive_sha1: str
    parts: int
    bundled_size: int
    signature: Signature
    elapsed_s: float


def difference_error(address: str, differences: tuple[Difference, ...]) -> DifferenceError:
    """Make the error of the first difference, with the number of further ones."""
    more = f" ({len(differences) - 1} more)" if len(differences) > 1 else ""
    return DifferenceError(
        f"bundle.{differences[0].what}",
        f"cannot unbundle {address}: {differences[0].message}{more}",
        hint=f"see all differences: amistream verify --deep {address}",
        field="manifest",
    )
