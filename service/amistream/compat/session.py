"""The work of the old commands on bundles: what `bundles.session` does, with what only they ask for.

They take parts and manifest from different directories, make and delete buckets, and rewrite a manifest in its place.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar, cast

from amistream.aws.buckets import BucketFacts, delete_if_empty, find_bucket, make_bucket
from amistream.bundles.meter import Meter
from amistream.bundles.owner import find_owner
from amistream.bundles.place import Bundle, Place, check_bucket, find_bundle, open_bucket, open_place
from amistream.bundles.register import ec2_of, images_on
from amistream.bundles.remove import Removal, plan_removal, remove
from amistream.bundles.results import Removed, Unbundled
from amistream.bundles.session import BundleSession
from amistream.bundles.unbundle import refuse_own_file, unbundle
from amistream.bundles.upload import upload
from amistream.cli.foreground import run_session
from amistream.errors import DeniedError, NoBucketError, RefusedError, StoreError
from amistream.flow.retry import retry_policy, with_retries
from amistream.location import DirectoryLocation, parse_manifest_address, parse_s3_location
from amistream.ports.store import ObjectStore, Store
from amistream.reports import Transferred
from amistream.settings import Settings
from amistream.targets.opening import choose_file
from amistream.values import AccessKeys, quoted

ANY_REGION = "us-east-1"
"""Named for a bucket that is elsewhere, it counts as not named: it was what the old tools assumed."""

_T = TypeVar("_T")


class OldSession(BundleSession):
    """A session of the old commands."""

    async def default_region(self) -> str:
        """The region of the settings or of the SDK's configuration, or ''."""
        return await self._aws.default_region()

    async def make_missing(self, address: str, region: str) -> None:
        """Make the bucket of `address` in `region`, or where the settings say, unless it is there."""
        bucket = parse_s3_location(address).bucket
        url, timeout_s = self._settings.endpoint_url.rstrip("/"), self._settings.stall_timeout_s

        async def find(_: object) -> BucketFacts:
            return await find_bucket(self._aws, bucket, region=region, endpoint_url=url, timeout_s=timeout_s)

        answer = await with_retries(retry_policy(self._settings), f"use the bucket {bucket}", find)
        if not isinstance(answer.error, NoBucketError):
            return
        where = region or await self._aws.default_region() or ANY_REGION
        await make_bucket(await self._aws.client("s3", where, url), bucket, where, timeout_s)
        self._note(f"made the bucket {bucket} in {where}")

    async def upload_from(
        self, manifest: Path, parts: Path, to: str, meter: Meter, *, region: str, whole: bool
    ) -> tuple[Bundle, Transferred]:
        """Copy the bundle whose parts are in a directory; without `whole` the manifest is left out."""
        settings, named = self._settings, "" if region == ANY_REGION else region
        source = await open_place(DirectoryLocation(parts), settings, self._aws)
        target = await open_bucket(parse_s3_location(to), settings, self._aws, region=named)
        bundle = await find_bundle(source, manifest.name, copy=manifest)
        await check_bucket(target, settings, self._aws, self._note, region=named)
        store = target.store if whole else cast("ObjectStore", _WithoutCommit(target.store))
        return bundle, await upload(bundle, replace(target, store=store), settings, meter, self._note)

    async def unbundle_in(
        self, manifest: Path, parts: Path, directory: Path, private_key: Path, meter: Meter
    ) -> Unbundled:
        """Take the image out, into a file of its own name in `directory`; one that is there gives way."""
        source = await open_place(DirectoryLocation(parts), self._settings, self._aws)
        bundle = await find_bundle(source, manifest.name, copy=manifest)
        owner = await asyncio.to_thread(find_owner, self._settings, None, private_key)
        await asyncio.to_thread(refuse_own_file, bundle, directory / bundle.manifest.name, manifest)
        target = await asyncio.to_thread(choose_file, directory / bundle.manifest.name, force=True)
        return await unbundle(bundle, owner, target, meter, self._note)

    async def delete_unused(
        self, address: str, name: str, copy: Path | None, confirm: Callable[[Removal], Awaitable[None]]
    ) -> Removed:
        """Delete a bundle that no AMI uses, as far as EC2 reports."""
        settings = self._settings
        place = await open_bucket(parse_s3_location(address), settings, self._aws)
        bundle = await find_bundle(place, name, copy=copy)
        await self._refuse_used(place, name)
        plan = await plan_removal(bundle, settings, None, deregister=False)
        await confirm(plan)
        return await remove(plan, settings, None, self._note)

    async def delete_empty(self, address: str) -> bool:
        """Delete the bucket of `address` if nothing is in it."""
        place = await open_bucket(parse_s3_location(address), self._settings, self._aws)
        client = await self._aws.client("s3", place.region, self._settings.endpoint_url.rstrip("/"))
        return await delete_if_empty(client, place.location.bucket, self._settings.stall_timeout_s)

    async def kernel_and_ramdisk(self, address: str) -> tuple[str, str]:
        """Read kernel and RAM disk of the manifest at `address`; '' for none."""
        folder, name = parse_manifest_address(address)
        place = await open_place(folder, self._settings, self._aws)
        manifest = (await find_bundle(place, name)).manifest
        return manifest.kernel, manifest.ramdisk

    async def _refuse_used(self, place: Place, name: str) -> None:
        ec2 = await ec2_of(place.region, self._settings, self._aws)
        try:
            images, unclear = await images_on(place, name, ec2, self._settings)
        except StoreError as error:
            # A compatible cloud may have no EC2 at all; AWS itself has one, and its answer counts.
            if not self._settings.endpoint_url and not isinstance(error, DeniedError):
                raise
            self._note(f"EC2 was not asked whether an AMI is registered on it: {error.message}")
            return
        if unclear:
            # Only a compatible cloud does that; the old tools never asked.
            self._note(f"EC2 does not report on which bundle {unclear[0].id} is registered: it may be this one")
        if images:
            ids = " ".join(image.id for image in images)
            raise RefusedError(
                "delete.registered",
                f"cannot delete {place.image_location(name)}: {ids} could not be launched any more",
                hint=f"first: aws ec2 deregister-image --region {place.region} --image-id {images[0].id}",
            )


class _WithoutCommit:
    """A store that takes parts, and leaves the manifest out."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def commit(self, name: str, data: bytes, sha1: bytes) -> None:
        """Do not."""


def run_old(
    settings: Settings, keys: AccessKeys | None, work: Callable[[OldSession, Meter], Awaitable[_T]], verb: str = ""
) -> _T:
    """Run `work` to its end; `keys` come before those the SDK finds. Raises `AmistreamError`."""
    return run_session(OldSession, settings, work, verb, keys)


def directory_of(text: str) -> Path:
    """A directory that is there, as the old commands want it. Raises `RefusedError`."""
    path = Path(text or ".").absolute()
    if not os.access(path, os.X_OK) or not path.is_dir():
        raise RefusedError(
            "directory.missing",
            f"cannot use the directory {path}: it is not there",
            hint=f"make it: mkdir {quoted(path)}",
        )
    return path
