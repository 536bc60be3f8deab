"""The contract of a registry: EC2, as far as registering an AMI needs it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

from amistream.location import SCHEME

JOB_TAG = "amistream:job"
"""Tag of an AMI with the job, or a word for the command, that registered it: RegisterImage takes no client token."""
BUNDLE_TAG = "amistream:bundle"
"""Tag of an AMI on EBS with the bundle of which it was made: bucket/key of the manifest, or the beginning of that."""
REQUEST_TAG = "amistream:request"
"""Tag of a named job's snapshot with the digest of its request."""
_LONGEST_TAG = 256
"""Characters of a tag's value. AWS limit."""


def tag_of_bundle(manifest: str) -> str:
    """The value of `BUNDLE_TAG` for a manifest's address."""
    return manifest.removeprefix(SCHEME)[:_LONGEST_TAG]


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """The AMI that EC2 is asked to register, on a bundle or on an EBS snapshot.

    On a bundle `location` is the manifest's bucket/key, without a leading slash. On a snapshot `root_device` is set.
    As the options of a command, empty values are taken from the manifest.
    """

    location: str = ""
    name: str = ""
    architecture: str = ""
    virtualization: str = ""
    description: str = ""
    kernel: str = ""
    ramdisk: str = ""
    sriov: bool = False
    ena: bool = False
    block_device_mappings: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    snapshot_id: str = ""
    """'' until the snapshot of the root device is made."""
    root_device: str = ""
    volume_size_gib: int = 0
    volume_type: str = ""
    boot_mode: str = ""
    imds_support: str = ""

    @property
    def is_on_snapshot(self) -> bool:
        return bool(self.root_device)

    @property
    def unmarked(self) -> Registration:
        """The same without the marks of amistream, for users who may not tag."""
        marks = {JOB_TAG, BUNDLE_TAG}
        return replace(self, tags={key: value for key, value in self.tags.items() if key not in marks})


@dataclass(frozen=True, slots=True, kw_only=True)
class Ami:
    """An AMI as EC2 describes it. `reason` explains a failed `state`.

    `location` is written as in `Registration`. An endpoint may report none, or the AMI's name in its place.
    `snapshot_id` is that of the root device, '' for an AMI on a bundle.
    """

    id: str
    location: str
    state: str
    reason: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    snapshot_id: str = ""
    name: str = ""
    description: str = ""
    sriov: bool = False
    ena: bool = False

    @property
    def is_on_any(self) -> bool:
        """The endpoint does not report the AMI's bundle, so any bundle may be the one. Only for AMIs on bundles."""
        return not self.location.endswith(".xml")

    def is_of(self, registration: Registration) -> bool:
        """The AMI is registered on the bundle, or the snapshot, of this registration."""
        if registration.is_on_snapshot:
            return bool(registration.snapshot_id) and self.snapshot_id == registration.snapshot_id
        return self.location == registration.location

    def is_by_job_of(self, registration: Registration) -> bool:
        """The tag proves that the job of this registration made the AMI, and no user under the same name."""
        mark = registration.tags.get(JOB_TAG)
        return mark is not None and self.tags.get(JOB_TAG) == mark


class Registry(Protocol):
    """Registers AMIs in one region. Each call is one request, never repeated here; failures are `StoreError`.

    AMIs become visible with a delay: `find` and `describe` may return None for one that was just registered.
    """

    async def register(self, registration: Registration) -> str:
        """Register and return the AMI's id. After a transient error the AMI may exist or not."""

    async def find(self, name: str) -> Ami | None:
        """Find the AMI of this name in the caller's account."""

    async def describe(self, image_id: str) -> Ami | None:
        """Describe the AMI of this id."""

    async def deregister(self, image_id: str) -> None:
        """Deregister the AMI; one that is gone is no failure."""
