"""What the commands on existing bundles tell, as `--json` writes it. Sizes in bytes; costs in US dollars a month."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from pydantic import BaseModel, ConfigDict

from amistream.errors import DifferenceError


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


class Difference(_Result):
    """One thing that is not what it should be. `what` is stable, `part` the object at fault where it is one."""

    what: str
    part: str = ""
    expected: str = ""
    found: str = ""
    message: str


class Signature(StrEnum):
    """What became of the manifest's signature."""

    RIGHT = "right"
    REWRITTEN = "right once written as Amazon's tools write it"
    WRONG = "wrong"
    ABSENT = "absent"
    UNCHECKED = "not checked: no certificate at hand"
    OTHER = "not checked: it is another user's"


class Access(StrEnum):
    """Whether EC2 may read the objects, by their ACLs."""

    GRANTED = "granted to EC2"
    PUBLIC = "public"
    PRIVATE = "private: EC2 cannot read it"
    NOT_TOLD = "not told by this endpoint"
    NOT_ALLOWED = "not told: s3:GetObjectAcl is not allowed"
    NONE = "a directory has none"


class Digests(_Result):
    """How many parts' SHA-1 were compared: with what the place keeps, or by reading. `composite` were sent in chunks,
    so that no SHA-1 of the whole is kept; of the `unkept` ones none is at all.
    """

    compared: int
    composite: int
    unkept: int


class Content(_Result):
    """The image as it was found in the parts (`verify --deep`)."""

    name: str
    size: int
    data_size: int
    sparse: bool
    archive_sha1: str


class Report(_Result):
    """What a verification found. The bundle is what its manifest says if there are no `differences`."""

    manifest: str
    deep: bool
    bundler: str
    kind: str
    architecture: str
    image_name: str
    image_size: int
    bundled_size: int
    parts: int
    digests: Digests
    signature: Signature
    access: Access
    content: Content | None
    differences: tuple[Difference, ...]
    notes: tuple[str, ...]
    elapsed_s: float


class Unbundled(_Result):
    """An image that was taken out of its bundle and proved. `data_size` are its bytes outside the archive's holes."""

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
    """The first difference as what stops the work, and how many more there are."""
    more = f" ({len(differences) - 1} more)" if len(differences) > 1 else ""
    return DifferenceError(
        f"bundle.{differences[0].what}",
        f"cannot unbundle {address}: {differences[0].message}{more}",
        hint=f"see all that differs: amistream verify --deep {address}",
        field="manifest",
    )
