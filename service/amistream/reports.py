"""The reports of work on a bundle that exists, which its command and its job have in common, as JSON.

A verification: how the bundle compares with its manifest. A transfer: what was copied, and where to. Sizes in bytes.
"""

from __future__ import annotations

from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field

from amistream.states import OTHERS_SIGNATURE


class _Result(BaseModel):
    model_config = ConfigDict(frozen=True, defer_build=True)


class Signature(StrEnum):
    """The result of checking a manifest's signature; the last two come from `Owner`, which knows the user.

    The values are in `--json` documents and do not change.
    """

    RIGHT = "right"
    REWRITTEN = "right once written as Amazon's tools write it"
    WRONG = "wrong"
    ABSENT = "absent"
    UNCHECKED = "not checked: no certificate at hand"
    OTHER = OTHERS_SIGNATURE


class Difference(_Result):
    """One difference from the manifest. `what` is stable; `part` is the object at fault, if any."""

    what: str
    part: str = ""
    expected: str = ""
    found: str = ""
    message: str


class Access(StrEnum):
    """The access of EC2 to the objects, by their ACLs."""

    GRANTED = "granted to EC2"
    PUBLIC = "public"
    PRIVATE = "private: EC2 cannot read it"
    NOT_TOLD = "not told by this endpoint"
    NOT_ALLOWED = "not told: s3:GetObjectAcl is not allowed"
    NONE = "a directory has none"


class Digests(_Result):
    """Numbers of parts, by how their SHA-1 could be checked.

    `compared`: with the store's checksum, or by reading the part. `composite`: uploaded in chunks, so the store has no
    checksum of the whole part. `unkept`: the store has no checksum.
    """

    compared: int
    composite: int
    unkept: int


class Content(_Result):
    """The image as restored from the parts (`verify --deep`)."""

    name: str
    size: int
    data_size: int
    sparse: bool
    archive_sha1: str


class Report(_Result):
    """Findings of a verification. Without `differences` the bundle matches its manifest."""

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


class Transferred(_Result):
    """A bundle that was downloaded, uploaded or migrated. `kept` parts were there already."""

    manifest: str
    source: str
    parts: int
    kept: int
    kept_parts: tuple[str, ...] = Field((), exclude=True)
    """Their names, for commands that list them. In no document: there may be thousands, and a job counts them only."""
    bundled_size: int
    elapsed_s: float


class Registered(_Result):
    """An AMI, registered by this command or earlier."""

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
