"""What `verify` and `unbundle` tell of a bundle, as `--json` writes it. Sizes in bytes."""

from __future__ import annotations

from enum import StrEnum

from pydantic import BaseModel, ConfigDict

from amistream.errors import DifferenceError


class _Result(BaseModel):
    model_config = ConfigDict(frozen=True)


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
