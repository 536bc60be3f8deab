"""Deletes a bundle: the objects in its manifest, if they match it, the claim of a job that is over, and nothing else.

`plan_removal` checks and decides, `remove` deletes. The manifest goes first, so that no bundle ever lacks parts. While
an AMI uses the bundle nothing is deleted, unless the AMI is deregistered too.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from amistream.aws.ec2 import Ec2
from amistream.bundles.claim_text import is_over
from amistream.bundles.manifest import ManifestPart
from amistream.bundles.meter import Note
from amistream.bundles.parts import differs, holds_other
from amistream.bundles.place import BucketPlace, Bundle, find_bundle
from amistream.bundles.recognise import MANIFEST_END
from amistream.bundles.register import deregister_image, images_on
from amistream.bundles.results import Removed
from amistream.errors import RefusedError, StoreError
from amistream.flow.gather import gather_limited
from amistream.ports.store import Stored, StoredClaim
from amistream.settings import Settings
from amistream.values import claim_name


@dataclass(frozen=True, slots=True, kw_only=True)
class Removal:
    """The objects to delete. `own`: parts as name and size; `kept`: objects that have a part's name but differ, or
    belong to another bundle too. `claim`: that of the job that made it, and is over.
    """

    bundle: Bundle
    manifest_there: bool
    own: tuple[tuple[str, int], ...]
    kept: tuple[str, ...]
    missing: tuple[str, ...]
    images: tuple[str, ...]
    claim: StoredClaim | None

    @property
    def names(self) -> tuple[str, ...]:
        """All objects to delete, the manifest first."""
        first = (self.bundle.manifest_name,) if self.manifest_there else ()
        last = (self.claim.name,) if self.claim is not None else ()
        return (*first, *(name for name, _ in self.own), *last)

    @property
    def size(self) -> int:
        manifest = len(self.bundle.manifest.raw) if self.manifest_there else 0
        claim = len(self.claim.text) if self.claim is not None else 0
        return manifest + sum(size for _, size in self.own) + claim

    def result(self, *, dry_run: bool, deregistered: Sequence[str]) -> Removed:
        return Removed(
            manifest=self.bundle.address,
            dry_run=dry_run,
            deregistered=tuple(deregistered),
            deleted=self.names,
            deleted_size=self.size,
            kept=self.kept,
            missing=self.missing,
        )


async def plan_removal(
    bundle: Bundle, settings: Settings, ec2: Ec2 | None, *, deregister: bool, except_ids: Sequence[str] = ()
) -> Removal:
    """Check every object in the manifest. Raises `RefusedError` if an AMI uses the bundle and stays.

    Without `ec2` AMIs are not looked up. `except_ids`: AMIs that are deregistered anyway.
    """
    store = bundle.place.store
    images, unclear = ([], []) if ec2 is None else await images_on(bundle.place, bundle.manifest_name, ec2, settings)
    staying = [image.id for image in images if image.id not in except_ids]
    if staying and not deregister:
        raise RefusedError(
            "delete.registered",
            f"cannot delete {bundle.address}: {', '.join(staying)} {'is' if len(staying) == 1 else 'are'} registered "
            "on it and could no longer be launched",
            hint="give --deregister to deregister the AMI first",
            field="manifest",
        )

    if possible := [image.id for image in unclear if image.id not in except_ids]:
        more = f" and {len(possible) - 1} more" if possible[1:] else ""
        raise RefusedError(
            "delete.unclear",
            f"cannot delete {bundle.address}: EC2 does not report on which bundle {possible[0]}{more} "
            f"{'are' if more else 'is'} registered, so it may be this one",
            hint="if no AMI uses the bundle: amistream delete --no-ec2",
            field="manifest",
        )
    names = await store.names("")
    needed = await _needed_by_others(bundle, names)

    # A bucket keeps checksums; files of a directory are read to compute them.
    in_bucket = isinstance(bundle.place, BucketPlace)

    async def check(part: ManifestPart) -> tuple[str, Stored | None, bool]:
        stored = await store.stat(part.filename, read=False)
        if stored is None:
            return part.filename, None, False
        too_large = stored.size > bundle.manifest.bundled_size
        if not in_bucket and not too_large:
            stored = await store.stat(part.filename)
        return part.filename, stored, part.filename in needed or too_large or stored is None or differs(stored, part)

    found = await gather_limited(check, bundle.manifest.parts, limit=16 if in_bucket else 2)
    return Removal(
        bundle=bundle,
        manifest_there=await _manifest_there(bundle),
        own=tuple((name, stored.size) for name, stored, other in found if stored is not None and not other),
        kept=tuple(name for name, _, other in found if other),
        missing=tuple(name for name, stored, _ in found if stored is None),
        images=tuple(image.id for image in images),
        claim=await _claim_that_is_over(bundle, names),
    )


async def remove(
    plan: Removal, settings: Settings, ec2: Ec2 | None, note: Note, *, versions_too: bool = False
) -> Removed:
    """Delete the objects. Raises `AmistreamError`; a notice then gives a copy of the manifest to finish with.

    `versions_too`: in a bucket that keeps versions, delete those of the objects for good.
    """
    bundle, store = plan.bundle, plan.bundle.place.store
    versions = await _versions(plan) if versions_too else {}
    if ec2 is not None:
        for image in plan.images:
            await deregister_image(ec2, image, settings)
            note(f"deregistered {image}")
    if plan.manifest_there:
        await store.delete(bundle.manifest_name)
    names = [name for name, _ in plan.own]
    try:
        if isinstance(bundle.place, BucketPlace):
            await bundle.place.store.delete_all(names)
        else:
            await gather_limited(store.delete, names)
    except BaseException:
        note(f"some parts are left; to continue: amistream delete {bundle.address} --manifest {_keep(bundle)}")
        raise
    if plan.claim is not None:
        await store.remove_claim(plan.claim)
    if versions and isinstance(bundle.place, BucketPlace):
        await bundle.place.store.delete_versions(versions)
    try:
        # A killed upload may have left chunks under the names of missing parts.
        await store.tidy(dict.fromkeys(plan.missing, "-1"))
    except StoreError as error:
        note(f"could not check for unfinished uploads: {error.message}")
    return plan.result(dry_run=False, deregistered=plan.images)


async def _versions(plan: Removal) -> dict[str, str]:
    """The ids of the versions that are to be deleted, by object name: of these alone, whatever lies below them."""
    place = plan.bundle.place
    if not isinstance(place, BucketPlace):
        return {}
    found = await gather_limited(place.store.version, plan.names)
    return {name: version for name, version in zip(plan.names, found, strict=True) if version}


async def _claim_that_is_over(bundle: Bundle, names: Sequence[str]) -> StoredClaim | None:
    """The claim by which a job has made the bundle, if that is over; it would keep the next bundle away."""
    name = claim_name(bundle.manifest_name.removesuffix(MANIFEST_END))
    claim = await bundle.place.store.read_claim(name) if name in names else None
    return claim if claim is not None and is_over(claim, datetime.now(UTC), has_bundle=True) else None


async def _needed_by_others(bundle: Bundle, names: Sequence[str]) -> set[str]:
    """Collect the names of objects in other manifests of the same place. An unreadable manifest has none."""
    others = [name for name in names if name.endswith(MANIFEST_END) and name != bundle.manifest_name]

    async def names_in(name: str) -> set[str]:
        try:
            other = await find_bundle(bundle.place, name)
        except RefusedError:
            return set()
        return {part.filename for part in other.manifest.parts}

    return set().union(*await gather_limited(names_in, others))


async def _manifest_there(bundle: Bundle) -> bool:
    """Check that the bundle's manifest is in its place; the bundle may have been read from a copy elsewhere."""
    other = await holds_other(bundle.place.store, bundle.manifest_name, bundle.manifest.raw)
    if not other:
        return other is False
    raise RefusedError(
        "delete.other_manifest",
        f"cannot delete the bundle at {bundle.address}: the manifest there is not the given one",
        hint="omit --manifest to delete the bundle that is there",
        field="manifest",
    )


def _keep(bundle: Bundle) -> str:
    """Write the manifest to a temporary file, because the stored one is deleted."""
    descriptor, path = tempfile.mkstemp(prefix="amistream-", suffix=f"-{bundle.manifest_name}")
    with os.fdopen(descriptor, "wb") as file:
        file.write(bundle.manifest.raw)
    return path
