"""Opens the folder of a bundle, in a bucket or a directory, and finds the bundle by its manifest.

Error messages contain the address and the remedy.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from pathlib import Path

import aiofiles.os

from amistream.aws import buckets
from amistream.aws.session import Aws
from amistream.bundles.manifest import LARGEST, Manifest, parse_manifest
from amistream.bundles.meter import Note
from amistream.bundles.recognise import MANIFEST_END
from amistream.errors import RefusedError, StoreError
from amistream.flow.retry import retry_policy
from amistream.host.small_file import read_small_file
from amistream.location import SCHEME, DirectoryLocation, Location, S3Location, no_manifest_error
from amistream.ports.store import ObjectStore, Store
from amistream.settings import Settings
from amistream.stores.directory import DirectoryStore
from amistream.stores.opening import make_object_store
from amistream.units import size_text

OLD_BUCKET_PATTERN = re.compile(r"[A-Za-z0-9._-]{1,255}")
"""Names that S3 accepted in its early years, when most bundles were made, and that other services still accept."""
_NAMED = 5
"""Manifests that an error names."""
NO_TOKEN = "none"  # noqa: S105 - no password: nothing temporary is written here


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A folder of bundles. `region` is '' for a directory."""

    store: Store
    location: Location
    region: str

    def image_location(self, manifest_name: str) -> str:
        """The manifest's location for EC2: bucket/key, without a scheme."""
        return f"{self.location}/{manifest_name}".removeprefix(SCHEME)


@dataclass(frozen=True, slots=True, kw_only=True)
class BucketPlace(Place):
    """A folder of bundles in a bucket."""

    store: ObjectStore
    location: S3Location


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """A bundle that was found: its place, its manifest's name there, and the manifest."""

    place: Place
    manifest_name: str
    manifest: Manifest

    @property
    def address(self) -> str:
        return f"{self.place.store.location}/{self.manifest_name}"


async def open_place(
    location: Location, settings: Settings, aws: Aws, *, region: str = "", endpoint_url: str = ""
) -> Place:
    """Open a bucket's folder or a directory. Raises `RefusedError` or `StoreError` if it does not exist."""
    match location:
        case S3Location():
            return await open_bucket(location, settings, aws, region=region, endpoint_url=endpoint_url)
        case DirectoryLocation(path):
            directory = DirectoryLocation(Path(await aiofiles.os.path.abspath(path)))
    if not await aiofiles.os.path.isdir(directory.path):
        raise RefusedError(
            "directory.missing",
            f"cannot look for a bundle in {directory}: there is no such directory",
            hint="check the path",
            field="manifest",
        )
    return Place(store=DirectoryStore(directory.path, token=NO_TOKEN), location=directory, region="")


async def open_bucket(
    location: S3Location, settings: Settings, aws: Aws, *, region: str = "", endpoint_url: str = ""
) -> BucketPlace:
    """Open a bucket's folder; `region` is tried first. Raises `RefusedError` or `StoreError`."""
    if not OLD_BUCKET_PATTERN.fullmatch(location.bucket):
        raise RefusedError(
            "bucket.name",
            f"cannot use {location}: {location.bucket!r} is not a bucket name",
            hint="write s3://BUCKET or s3://BUCKET/PREFIX",
            field="destinations",
        )
    url, timeout_s = (endpoint_url or settings.endpoint_url).rstrip("/"), settings.stall_timeout_s
    found = await buckets.bucket_region(aws, location.bucket, region=region, endpoint_url=url, timeout_s=timeout_s)
    store = await make_object_store(location, settings, aws, region=found, endpoint_url=url)
    return BucketPlace(store=store, location=location, region=found)


async def check_bucket(place: BucketPlace, settings: Settings, aws: Aws, note: Note, *, region: str = "") -> None:
    """Refuse a bucket that is not in `region`, or whose ACLs are disabled. Raises `RefusedError` or `StoreError`."""
    bucket, timeout_s = place.location.bucket, settings.stall_timeout_s
    buckets.check_region(bucket, region, place.region)
    client = await aws.client("s3", place.region, settings.endpoint_url.rstrip("/"))
    doubts = [
        await buckets.check_acls(client, bucket, retry_policy(settings)),
        buckets.encryption_doubt(bucket, await buckets.default_encryption(client, bucket, timeout_s)),
    ]
    for doubt in filter(None, doubts):
        note(f"{doubt.found}: {doubt.why}; {doubt.fix}")


async def read_manifest(path: Path) -> Manifest:
    """Read the manifest in a file or pipe. Raises `RefusedError`."""

    def read() -> bytes:
        data, _ = read_small_file(
            path, None, what="manifest", field="manifest", code="manifest.unreadable", largest=LARGEST
        )
        return data

    return parse_manifest(await asyncio.to_thread(read), str(path))


async def _manifests(place: Place, folder: str = "") -> list[str]:
    """The names of the manifests in the place itself, or in a `folder` below it, which ends in a slash."""
    if isinstance(place, BucketPlace):
        entries = [listed.name async for listed in place.store.listed(folder, below=False)]
    else:
        entries = [folder + name for name in await aiofiles.os.listdir(f"{place.store.location}/{folder}")]
    return sorted(name for name in entries if name.endswith(MANIFEST_END))


async def only_manifest(place: Place) -> str:
    """The name of the only manifest in the folder; '' without one. Raises `RefusedError` for several."""
    found = await _manifests(place)
    if len(found) > 1:
        raise RefusedError(
            "manifest.several",
            f"cannot choose a manifest in {place.store.location}: there are {len(found)}",
            hint=f"give one of them: {', '.join(found[:_NAMED])}{', ...' if len(found) > _NAMED else ''}",
            field="manifest",
        )
    return found[0] if found else ""


async def find_bundle(place: Place, manifest_name: str, *, copy: Path | None = None) -> Bundle:
    """Read the manifest of that name, or its `copy` in a file. Raises `RefusedError` if it is missing or invalid."""
    if copy is not None:
        return Bundle(place=place, manifest_name=manifest_name, manifest=await read_manifest(copy))
    address = f"{place.store.location.rstrip('/')}/{manifest_name}"
    if isinstance(place.location, DirectoryLocation) and await aiofiles.os.path.isdir(address):
        raise await _named(no_manifest_error(address), place, manifest_name)
    stored = await place.store.stat(manifest_name, read=False)
    if stored is None:
        missing = RefusedError(
            "manifest.missing",
            f"cannot find the manifest {address}: it is not there",
            hint="give a manifest's own name, as image.manifest.xml; `amistream list s3://BUCKET` shows a bucket's",
            field="manifest",
        )
        raise await _named(missing, place, manifest_name)
    if stored.size > LARGEST:
        raise RefusedError(
            "manifest.bad",
            f"cannot use the manifest {address}: it has {size_text(stored.size)}, and a manifest has at most "
            f"{size_text(LARGEST)}",
            hint="check that this is the manifest (NAME.manifest.xml)",
            field="manifest",
        )
    raw = await place.store.read(manifest_name, 0, stored.size)
    return Bundle(place=place, manifest_name=manifest_name, manifest=parse_manifest(raw, address))


async def _named(error: RefusedError, place: Place, folder: str) -> RefusedError:
    """The error with the manifests in its hint that lie in the folder of that name, if it has any and can be listed."""
    try:
        found = await _manifests(place, f"{folder}/")
    except (OSError, StoreError):
        return error
    if not found:
        return error
    addresses = ", ".join(f"{place.store.location.rstrip('/')}/{name}" for name in found[:_NAMED])
    return error.reworded(hint=f"give the manifest in it: {addresses}{', ...' if len(found) > _NAMED else ''}")
