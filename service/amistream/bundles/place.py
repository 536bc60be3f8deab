"""Where an existing bundle lies: a bucket or a directory, found from its manifest's address.

`s3://BUCKET/KEY/NAME.manifest.xml` and paths are taken. Errors name the address and what to do.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiofiles.os

from amistream.aws import buckets
from amistream.aws.session import Aws
from amistream.bundles.manifest import LARGEST, Manifest, parse_manifest
from amistream.errors import RefusedError
from amistream.flow.retry import retry_policy
from amistream.ports.store import Store
from amistream.settings import Settings
from amistream.stores.directory import DirectoryStore
from amistream.stores.s3.multipart import Multipart
from amistream.stores.s3.store import S3Store
from amistream.values import is_path

MANIFEST_END = ".manifest.xml"
OLD_BUCKET_PATTERN = re.compile(r"[A-Za-z0-9._-]{1,255}")
"""What S3 took in its early years, when most bundles were made, and other stores still do."""
NO_TOKEN = "none"  # noqa: S105 - no password: nothing temporary is written through such a place


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A folder of bundles. `bucket` and `region` are '' for a directory; `key_prefix` has no slash at its ends."""

    store: Store
    bucket: str
    key_prefix: str
    region: str

    @property
    def in_s3(self) -> bool:
        return bool(self.bucket)

    def image_location(self, manifest_name: str) -> str:
        """The manifest as EC2 names it: bucket/key, without a scheme."""
        return "/".join(filter(None, (self.bucket, self.key_prefix, manifest_name)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """A bundle that was found: its place, its manifest's name there, and what that says."""

    place: Place
    manifest_name: str
    manifest: Manifest

    @property
    def address(self) -> str:
        return f"{self.place.store.location}/{self.manifest_name}"


def split_address(address: str) -> tuple[str, str]:
    """The folder and the name of a manifest's address. Raises `RefusedError` when it names no file."""
    if not address.startswith("s3://") and not is_path(address):
        raise RefusedError(
            "manifest.address",
            f"cannot use {address}: it is neither s3://BUCKET/... nor a path",
            hint="write s3://BUCKET/KEY/NAME.manifest.xml, or ./ before a path of such a name",
            field="manifest",
        )
    folder, slash, name = address.rpartition("/")
    if address.startswith("s3://") and (not slash or folder == "s3:/"):
        folder, name = address, ""
    if not name:
        raise _no_manifest(address)
    return folder or ("/" if slash else "."), name


@asynccontextmanager
async def open_place(
    folder: str, settings: Settings, aws: Aws, *, region: str = "", endpoint_url: str = "", token: str = NO_TOKEN
) -> AsyncIterator[Place]:
    """The folder `s3://BUCKET[/KEY]` or a directory. Raises `RefusedError` or `StoreError` when it is not there."""
    if not folder.startswith("s3://"):
        directory = Path(await aiofiles.os.path.abspath(folder))
        if not await aiofiles.os.path.isdir(directory):
            raise RefusedError(
                "directory.missing",
                f"cannot look for a bundle in {directory}: there is no such directory",
                hint="check the path",
                field="manifest",
            )
        yield Place(store=DirectoryStore(directory, token=token), bucket="", key_prefix="", region=region)
        return
    bucket, _, key_prefix = folder.removeprefix("s3://").strip("/").partition("/")
    if not OLD_BUCKET_PATTERN.fullmatch(bucket):
        raise RefusedError(
            "bucket.name",
            f"cannot use {folder}: {bucket!r} is not a bucket name",
            hint="write s3://BUCKET or s3://BUCKET/PREFIX",
            field="destinations",
        )
    url = (endpoint_url or settings.endpoint_url).rstrip("/")
    timeout_s = settings.stall_timeout_s
    found = await buckets.bucket_region(aws, bucket, region=region, endpoint_url=url, timeout_s=timeout_s)
    store = S3Store(
        await aws.client("s3", found, url),
        bucket=bucket,
        key_prefix=key_prefix,
        acl=settings.acl,
        retry=retry_policy(settings),
        multipart=Multipart(
            threshold=int(settings.multipart_threshold),
            chunk=int(settings.multipart_chunk),
            concurrency=settings.multipart_concurrency,
        ),
    )
    yield Place(store=store, bucket=bucket, key_prefix=key_prefix, region=found)


async def find_bundle(place: Place, manifest_name: str) -> Bundle:
    """Read the manifest of that name. Raises `RefusedError` when there is none, or it is not one."""
    address = f"{place.store.location}/{manifest_name}"
    if not place.in_s3 and await aiofiles.os.path.isdir(address):
        raise _no_manifest(address)
    stored = await place.store.stat(manifest_name, read=False)
    if stored is None:
        raise RefusedError(
            "manifest.missing",
            f"cannot find the manifest {address}: it is not there",
            hint="give a manifest's own name, as image.manifest.xml; `amistream list s3://BUCKET` shows a bucket's",
            field="manifest",
        )
    if stored.size > LARGEST:
        raise RefusedError(
            "manifest.bad",
            f"cannot use the manifest {address}: it has {stored.size} bytes, and a manifest has at most {LARGEST}",
            hint="check that this is the manifest (NAME.manifest.xml)",
            field="manifest",
        )
    raw = await place.store.read(manifest_name, 0, stored.size)
    return Bundle(place=place, manifest_name=manifest_name, manifest=parse_manifest(raw, address))


def _no_manifest(address: str) -> RefusedError:
    return RefusedError(
        "manifest.address",
        f"cannot look for a bundle at {address}: that names a folder, not a manifest",
        hint="give the manifest itself, such as s3://BUCKET/KEY/image.manifest.xml or ./image.manifest.xml",
        field="manifest",
    )
