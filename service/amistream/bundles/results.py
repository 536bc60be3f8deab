"""What the commands on existing bundles tell, as `--json` writes it. Sizes in bytes; costs in US dollars a month."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel, ConfigDict


class _Result(BaseModel):
    model_config = ConfigDict(frozen=True)


class Transferred(_Result):
    """A bundle that was downloaded, uploaded or migrated. `kept` parts were there already."""

    manifest: str
    source: str
    parts: int
    kept: int
    bundled_size: int
    elapsed_s: float


class Registered(_Result):
    """An AMI that was registered, or was found to be."""

    image_id: str
    image_name: str
    manifest: str
    region: str


class Migrated(Transferred):
    """`copied` parts never left S3, the others went through this machine."""

    region: str
    copied: int
    kernel: str | None
    ramdisk: str | None
    image: Registered | None


class Removed(_Result):
    """What was deleted, or with `dry_run` would be.

    `kept` have the name of a part and are another object; `missing` were gone before.
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
    """`stored` counts the manifest too; `images` is None when EC2 did not tell; a whole bundle has no `problem`."""

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


class ListedParts(_Result):
    """Parts that no manifest names."""

    parts: str
    count: int
    stored: int
    newest_at: datetime
    cost: float | None


class ListedImage(_Result):
    """An AMI whose manifest is not there."""

    image_id: str
    location: str


class Inventory(_Result):
    """`cost` is an estimate: the stored bytes at the region's list price for standard storage, None where unknown."""

    location: str
    region: str
    bundles: tuple[ListedBundle, ...]
    orphan_parts: tuple[ListedParts, ...]
    orphan_images: tuple[ListedImage, ...]
    stored: int
    cost: float | None
    price: float | None
    price_as_of: str
