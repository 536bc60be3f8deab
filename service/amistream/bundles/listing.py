"""Lists the bundles in a bucket: whole ones, broken ones, parts without a manifest, AMIs without a bundle.

One listing names all objects, several manifests are read at a time, and no part is requested. EC2 lists the account's
AMIs once. `take_inventory` gathers, `select` filters; costs are estimates.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType

from amistream.aws.ec2 import Ec2
from amistream.bundles.leftovers import begin_of_probe, probe_leftovers, stray_claims, unfinished_uploads
from amistream.bundles.manifest import LARGEST, Manifest, parse_manifest
from amistream.bundles.meter import Note
from amistream.bundles.place import BucketPlace, Place
from amistream.bundles.recognise import MANIFEST_END
from amistream.bundles.results import Inventory, ListedBundle, ListedImage, ListedParts
from amistream.errors import DeniedError, NoObjectError, RefusedError, StoreError
from amistream.flow.gather import gather_limited
from amistream.flow.retry import retry_policy, with_retries
from amistream.ports.registry import Ami
from amistream.ports.store import Listed, ObjectStore
from amistream.settings import Settings
from amistream.values import CLAIM_END, GIB, PART_NAME

READS = 8
"""Manifests read at a time: each may have 4 MiB. Guess."""

PRICES_AS_OF = "2025-01"

USD_PER_GIB_MONTH = MappingProxyType(
    {
        **dict.fromkeys(("us-east-1", "us-east-2", "us-west-2", "eu-west-1", "eu-north-1"), 0.023),
        **dict.fromkeys(("eu-west-2", "eu-west-3", "eu-south-1"), 0.024),
        "eu-central-1": 0.0245,
        **dict.fromkeys(("ca-central-1", "me-south-1", "il-central-1"), 0.025),
        **dict.fromkeys(("ap-east-1", "ap-south-1", "ap-southeast-1", "ap-southeast-2"), 0.025),
        **dict.fromkeys(("ap-northeast-1", "ap-northeast-2", "ap-northeast-3"), 0.025),
        "us-west-1": 0.026,
        "af-south-1": 0.0274,
        **dict.fromkeys(("us-gov-west-1", "us-gov-east-1"), 0.039),
        "sa-east-1": 0.0405,
    }
)
"""List prices of S3 standard storage for the first 50 TB of a month, for estimates only. S3's "GB" is a GiB."""


@dataclass(frozen=True, slots=True)
class _Listed:
    """The objects of a listing, by their kind."""

    manifests: dict[str, Listed] = field(default_factory=dict)
    parts: dict[str, Listed] = field(default_factory=dict)
    probes: list[Listed] = field(default_factory=list)
    claims: list[Listed] = field(default_factory=list)


async def _listed(store: ObjectStore) -> _Listed:
    there = _Listed()
    async for listed in store.listed(""):
        if begin_of_probe(listed.name):
            there.probes.append(listed)
        elif listed.name.endswith(MANIFEST_END):
            there.manifests[listed.name] = listed
        elif listed.name.endswith(CLAIM_END):
            there.claims.append(listed)
        elif PART_NAME.fullmatch(listed.name):
            there.parts[listed.name] = listed
    return there


async def take_inventory(
    place: BucketPlace,
    settings: Settings,
    ec2: Ec2 | None,
    note: Note,
    *,
    price: float | None = None,
    leftovers: bool = False,
) -> Inventory:
    """List everything below the place. Without `ec2`, or if EC2 refuses, `images` are unknown.

    `price` per GiB and month replaces the list price. `leftovers`: look for those of killed processes, too.
    """
    store = place.store
    images = await _images(place, settings, ec2, note)
    unclear = sum(image.is_on_any for image in images or ())
    if unclear:
        many = "AMI is" if unclear == 1 else "AMIs are"
        note(f"EC2 does not report on which bundle {unclear} {many} registered: a bundle shown with ? may have one")
    price = USD_PER_GIB_MONTH.get(place.region) if price is None else price
    there = await _listed(store)
    manifests, parts = there.manifests, there.parts

    async def read(listed: Listed) -> tuple[ListedBundle, set[str]]:
        manifest, problem = await _read(store, listed)
        location, name = place.image_location(listed.name), listed.name.rpartition("/")[2]
        claimed = await _claimed(store, listed, manifest, parts)
        total = sum(size or 0 for size in claimed.values())
        missing = tuple(part.rpartition("/")[2] for part, size in claimed.items() if size is None)
        if manifest is not None and missing:
            problem = f"{len(missing)} of {len(claimed)} parts missing"
        elif manifest is not None and total != manifest.bundled_size:
            problem = f"its parts have {total} bytes, not {manifest.bundled_size}"
        ids = tuple(image.id for image in images or () if image.location == location)
        row = ListedBundle(
            manifest=f"{store.location}/{listed.name}",
            name=manifest.name if manifest else name,
            made_at=listed.modified,
            image_size=manifest.size if manifest else 0,
            stored=listed.size + total,
            parts=len(claimed),
            missing=missing,
            problem=problem,
            images=None if images is None or (unclear and not ids) else ids,
            cost=_cost(listed.size + total, price),
        )
        return row, set(claimed)

    read_ones = await gather_limited(read, manifests.values(), READS)
    all_claimed = set[str]().union(*(names for _, names in read_ones))
    left = probe_leftovers(place, there.probes)
    if leftovers:
        names = dict(zip(manifests, read_ones, strict=True))
        whole = {name for name, (bundle, _) in names.items() if not bundle.problem}
        left += [*await unfinished_uploads(place, note), *await stray_claims(place, there.claims, whole)]
    loose = [listed for name, listed in parts.items() if name not in all_claimed]
    return _summed(
        Inventory(
            location=store.location,
            region=place.region,
            bundles=tuple(bundle for bundle, _ in read_ones),
            orphan_parts=tuple(_loose_parts(store, loose, price)),
            orphan_images=tuple(_loose_images(place, manifests, images or ())),
            leftovers=tuple(left),
            stored=0,
            cost=None,
            price=price,
            price_as_of=PRICES_AS_OF,
        )
    )


def select(
    inventory: Inventory, *, orphans: bool = False, unregistered: bool = False, made_before: datetime | None = None
) -> Inventory:
    """Select the rows that pass every filter set. An AMI without a bundle has no age and is never unregistered."""

    def of_age(moment: datetime) -> bool:
        return made_before is None or moment < made_before

    bundles = [
        bundle
        for bundle in inventory.bundles
        if of_age(bundle.made_at) and (not orphans or bundle.problem) and (not unregistered or bundle.images == ())
    ]
    parts = [parts for parts in inventory.orphan_parts if of_age(parts.newest_at)]
    images = () if unregistered or made_before else inventory.orphan_images
    left = () if unregistered else tuple(each for each in inventory.leftovers if of_age(each.newest_at))
    return _summed(
        inventory.model_copy(
            update={
                "bundles": tuple(bundles),
                "orphan_parts": tuple(parts),
                "orphan_images": images,
                "leftovers": left,
            }
        )
    )


async def _images(place: Place, settings: Settings, ec2: Ec2 | None, note: Note) -> list[Ami] | None:
    if ec2 is None:
        return None
    try:
        return await with_retries(
            retry_policy(settings), f"list the AMIs in {place.region}", lambda _: ec2.own_images()
        )
    except StoreError as error:
        note(f"AMIs are not shown: {error.message}")
        return None


async def _claimed(
    store: ObjectStore, listed: Listed, manifest: Manifest | None, parts: Mapping[str, Listed]
) -> dict[str, int | None]:
    """Find the sizes of a manifest's parts by name, None for missing ones. An unreadable manifest claims all names like
    those of its parts.
    """
    if manifest is None:
        prefix = listed.name.removesuffix(MANIFEST_END)
        return {
            name: part.size
            for name, part in parts.items()
            if (found := PART_NAME.fullmatch(name)) and found["prefix"] == prefix
        }
    folder, slash, _ = listed.name.rpartition("/")

    async def size(name: str) -> int | None:
        if name in parts or PART_NAME.fullmatch(name):
            return parts[name].size if name in parts else None
        # A name of another tool, which the listing did not gather.
        stored = await store.stat(name, read=False)
        return stored.size if stored else None

    names = [f"{folder}{slash}{part.filename}" for part in manifest.parts]
    return dict(zip(names, await gather_limited(size, names), strict=True))


async def _read(store: ObjectStore, listed: Listed) -> tuple[Manifest | None, str]:
    """Read the manifest; if it cannot be read, return None and the reason."""
    if not 0 < listed.size <= LARGEST:
        return None, f"a manifest of {listed.size} bytes"
    try:
        raw = await store.read(listed.name, 0, listed.size)
        return await asyncio.to_thread(parse_manifest, raw, listed.name), ""
    except RefusedError as error:
        return None, error.message
    except (DeniedError, NoObjectError) as error:
        # A manifest that may not be read, or was deleted meanwhile, hides no other.
        return None, error.message


def _loose_parts(store: ObjectStore, loose: Sequence[Listed], price: float | None) -> list[ListedParts]:
    groups: dict[str, list[Listed]] = defaultdict(list)
    for listed in loose:
        found = PART_NAME.fullmatch(listed.name)
        assert found is not None  # noqa: S101 - only such names were gathered
        groups[found["prefix"]].append(listed)
    rows = []
    for prefix, members in sorted(groups.items()):
        stored = sum(member.size for member in members)
        rows.append(
            ListedParts(
                parts=f"{store.location}/{prefix}.part.*",
                count=len(members),
                stored=stored,
                newest_at=max(member.modified for member in members),
                cost=_cost(stored, price),
            )
        )
    return rows


def _loose_images(place: Place, manifests: Mapping[str, Listed], images: Sequence[Ami]) -> list[ListedImage]:
    folder = place.image_location("")
    return [
        ListedImage(image_id=image.id, location=location)
        for image in images
        if (location := image.location).startswith(folder) and location.removeprefix(folder) not in manifests
    ]


def _cost(size: int, price: float | None) -> float | None:
    return None if price is None else round(size / GIB * price, 6)


def _summed(inventory: Inventory) -> Inventory:
    stored = sum(bundle.stored for bundle in inventory.bundles)
    stored += sum(parts.stored for parts in inventory.orphan_parts)
    stored += sum(left.stored or 0 for left in inventory.leftovers)
    return inventory.model_copy(update={"stored": stored, "cost": _cost(stored, inventory.price)})
