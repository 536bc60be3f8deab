"""The commands on existing bundles, from addresses to results: opens the places each needs.

For the command line, which knows neither stores nor the SDK. Every method raises `AmistreamError`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiofiles.os

from amistream.aws.buckets import keeps_versions
from amistream.aws.session import Aws
from amistream.bundles.convertible import find_convertible
from amistream.bundles.download import download
from amistream.bundles.facts import bundle_facts
from amistream.bundles.listing import take_inventory
from amistream.bundles.meter import Meter, Note, once
from amistream.bundles.migrate import (
    MigrationRequest,
    find_migration_keys,
    migrate,
    migration_options,
    open_source,
)
from amistream.bundles.owner import find_owner
from amistream.bundles.place import (
    BucketPlace,
    Bundle,
    Place,
    check_bucket,
    find_bundle,
    only_manifest,
    open_bucket,
    open_place,
)
from amistream.bundles.recognise import MANIFEST_END
from amistream.bundles.register import deregister_image, ec2_of, find_image, register_bundle
from amistream.bundles.remove import Removal, plan_removal, remove
from amistream.bundles.results import (
    BundleFacts,
    ConvertibleBundle,
    Deregistered,
    Inventory,
    Pruned,
    Removed,
    Unbundled,
)
from amistream.bundles.retention import Retention, doubt_about_groups, judge, prune, pruned, still_agreed
from amistream.bundles.unbundle import refuse_own_file, unbundle
from amistream.bundles.upload import upload
from amistream.bundles.verify import verify
from amistream.errors import RefusedError
from amistream.location import SCHEME, S3Location, parse_location, parse_manifest_address, parse_s3_location
from amistream.ports.registry import Registration
from amistream.reports import Migrated, Registered, Report, Transferred
from amistream.settings import Settings
from amistream.targets.opening import choose_target
from amistream.values import STANDARD_OUTPUT

Confirm = Callable[[Removal], Awaitable[None]]
"""Asks for confirmation; raises `RefusedError` for a no."""


class BundleSession:
    """`settings` name region and endpoint, `aws` stays the caller's, `note` takes notices."""

    def __init__(self, settings: Settings, aws: Aws, note: Note) -> None:
        self._settings = settings
        self._aws = aws
        self._note = note

    async def verify(
        self,
        address: str,
        meter: Meter,
        *,
        deep: bool,
        certificate: Path | None = None,
        private_key: Path | None = None,
    ) -> Report:
        """Compare the bundle with its manifest; `deep` reads and unpacks all parts, which needs the private key."""
        owner = await asyncio.to_thread(find_owner, self._settings, certificate, private_key)
        bundle = await self._bundle_to_read(address)
        return await verify(bundle, owner, self._settings, self._aws, meter=meter, deep=deep)

    async def unbundle(
        self,
        address: str,
        destination: str,
        meter: Meter,
        *,
        force: bool = False,
        certificate: Path | None = None,
        private_key: Path | None = None,
    ) -> Unbundled:
        """Write the bundle's image to a file, a block device or, for `-`, the standard output."""
        target = await asyncio.to_thread(choose_target, destination, force=force)
        owner = await asyncio.to_thread(find_owner, self._settings, certificate, private_key)
        bundle = await self._bundle_to_read(address)
        if destination != STANDARD_OUTPUT:
            await asyncio.to_thread(refuse_own_file, bundle, Path(destination))
        return await unbundle(bundle, owner, target, meter, self._note, workers=self._settings.workers)

    async def download(self, address: str, directory: Path, meter: Meter) -> Transferred:
        return await download(await self._bundle_to_read(address), directory, self._settings, meter, self._note)

    async def upload(self, address: str, to: str, meter: Meter, *, region: str = "") -> Transferred:
        if isinstance(parse_manifest_address(address)[0], S3Location):
            raise RefusedError(
                "upload.source",
                f"cannot upload {address}: it is in a bucket already",
                hint="`amistream migrate` copies a bundle from bucket to bucket",
                field="manifest",
            )
        bundle = await self._bundle_to_read(address)
        target = await open_bucket(parse_s3_location(to), self._settings, self._aws, region=region)
        await check_bucket(target, self._settings, self._aws, self._note, region=region)
        return await upload(bundle, target, self._settings, meter, self._note)

    async def register(self, address: str, options: Registration, *, region: str = "") -> Registered:
        bundle = await self._bundle_to_read(address, region=region)
        if isinstance(bundle.place, BucketPlace):
            await check_bucket(bundle.place, self._settings, self._aws, self._note, region=region)
        return await register_bundle(bundle, options, self._settings, self._aws, self._note)

    async def delete(
        self,
        address: str,
        confirm: Confirm,
        *,
        copy: Path | None = None,
        deregister: bool = False,
        ask_ec2: bool = True,
        dry_run: bool = False,
        versions_too: bool = False,
    ) -> Removed:
        """Delete the bundle. `copy` is a file with its manifest, for a bundle whose own manifest is gone.

        `versions_too`: delete for good what a bucket would keep as versions.
        """
        bundle = await self._bundle(address, copy=copy)
        in_bucket = isinstance(bundle.place, BucketPlace)
        ec2 = await ec2_of(bundle.place.region, self._settings, self._aws) if in_bucket and ask_ec2 else None
        plan = await plan_removal(bundle, self._settings, ec2, deregister=deregister)
        if not versions_too:
            await self._note_versions(bundle.place)
        if dry_run:
            return plan.result(dry_run=True, deregistered=plan.images)
        await confirm(plan)
        return await remove(plan, self._settings, ec2, self._note, versions_too=versions_too)

    async def deregister(
        self,
        image_id: str,
        confirm: Callable[[Removal | None], Awaitable[None]],
        *,
        region: str = "",
        delete: bool = False,
        dry_run: bool = False,
    ) -> Deregistered:
        """Deregister the AMI, and with `delete` remove its bundle; without, `confirm` gets None."""
        region = region or await self._aws.default_region()
        if not region:
            raise RefusedError(
                "region.missing",
                "cannot ask EC2: the region is not known",
                hint="give --region, or set AWS_REGION",
                field="region",
            )
        ec2 = await ec2_of(region, self._settings, self._aws)
        location = (await find_image(ec2, image_id, self._settings)).location
        removed: Removed | None = None
        if not delete:
            if not dry_run:
                await confirm(None)
                await deregister_image(ec2, image_id, self._settings)
        else:
            folder, slash, name = location.rpartition("/")
            if not slash or not name:
                raise RefusedError(
                    "image.no_bundle",
                    f"cannot delete the bundle of {image_id}: EC2 names no manifest ({location or 'no location'})",
                    hint="leave --delete out to deregister alone",
                    field="image",
                )
            place = await open_bucket(parse_s3_location(folder), self._settings, self._aws, region=region)
            bundle = await find_bundle(place, name)
            plan = await plan_removal(bundle, self._settings, ec2, deregister=False, except_ids=[image_id])
            await self._note_versions(place)
            if dry_run:
                removed = plan.result(dry_run=True, deregistered=[image_id])
            else:
                await confirm(plan)
                await deregister_image(ec2, image_id, self._settings)
                removed = await remove(plan, self._settings, ec2, self._note)
        return Deregistered(image_id=image_id, location=location, region=region, removed=removed)

    async def inventory(
        self, folder: str, *, ask_ec2: bool = True, price: float | None = None, leftovers: bool = False
    ) -> Inventory:
        location = parse_location(folder)
        if not isinstance(location, S3Location):
            raise RefusedError(
                "list.directory",
                f"cannot list {folder}: only buckets have an inventory",
                hint="give s3://BUCKET or s3://BUCKET/PREFIX",
                field="destinations",
            )
        place = await open_bucket(location, self._settings, self._aws)
        ec2 = await ec2_of(place.region, self._settings, self._aws) if ask_ec2 else None
        return await take_inventory(place, self._settings, ec2, self._note, price=price, leftovers=leftovers)

    async def prune(
        self,
        folder: str,
        rule: Retention,
        confirm: Callable[[Pruned], Awaitable[bool]],
        done: Callable[[Removed], object],
        *,
        dry_run: bool = False,
        versions_too: bool = False,
    ) -> Pruned:
        """Delete the bundles of a folder that the rule does not keep, with their AMIs.

        `confirm` gets the verdicts if there is anything to delete; it returns True if a person was asked, which takes a
        while. `done` is called behind each deletion.
        """
        inventory = await self.inventory(folder, ask_ec2=rule.asks_ec2)
        judged = judge(inventory, rule)
        if doubt := doubt_about_groups(inventory.location, judged, rule):
            self._note(doubt)
        if dry_run or not any(bundle.deletes for bundle in judged):
            return pruned(inventory, judged, dry_run=dry_run)
        if await confirm(pruned(inventory, judged, dry_run=True)):
            inventory = await self.inventory(folder, ask_ec2=rule.asks_ec2)
            judged = still_agreed(judge(inventory, rule), judged)
        # The notice of a bucket with versions would come with each bundle.
        quiet = BundleSession(self._settings, self._aws, once(self._note))

        async def delete(address: str, check: Confirm) -> Removed:
            return await quiet.delete(address, check, deregister=True, ask_ec2=rule.asks_ec2, versions_too=versions_too)

        removed, failed = await prune(judged, delete, done)
        return pruned(inventory, judged, removed, failed, dry_run=False)

    async def convertible(self, folder: str, *, region: str = "") -> list[ConvertibleBundle]:
        """The bundles in a bucket, each with the AMI on EBS that was made of it in `region`, or in the bucket's."""
        place = await open_bucket(parse_s3_location(folder), self._settings, self._aws)
        return await find_convertible(place, self._settings, self._aws, self._note, region=region or place.region)

    async def inspect(self, address: str, *, ask_ec2: bool = True) -> BundleFacts:
        bundle = await self._bundle_to_read(address)
        in_bucket = isinstance(bundle.place, BucketPlace)
        ec2 = await ec2_of(bundle.place.region, self._settings, self._aws) if in_bucket and ask_ec2 else None
        return await bundle_facts(bundle, self._settings, ec2, self._note)

    async def migrate(self, address: str, to: str, meter: Meter, request: MigrationRequest) -> Migrated:
        """Copy the bundle to a bucket of another region, with a manifest for that region's EC2."""
        settings = self._settings
        (folder, name), location = parse_manifest_address(address), parse_location(to)
        if not isinstance(location, S3Location):
            raise RefusedError(
                "migrate.destination",
                f"cannot migrate to {to}: only a bucket has a region",
                hint="give s3://BUCKET or s3://BUCKET/PREFIX",
                field="destinations",
            )
        keys = await asyncio.to_thread(find_migration_keys, request, settings)
        if keys.notice:
            self._note(keys.notice)
        async with open_source(folder, request, settings, self._aws) as source:
            target = await open_bucket(location, settings, self._aws, region=request.region)
            await check_bucket(target, settings, self._aws, self._note, region=request.region)
            bundle = await find_bundle(source, name)
            return await migrate(
                bundle,
                target,
                migration_options(bundle, target, keys, request, settings),
                settings,
                self._aws,
                meter=meter,
                note=self._note,
            )

    async def _note_versions(self, place: Place) -> None:
        """Note that deleting frees nothing in a bucket that keeps versions."""
        if not isinstance(place, BucketPlace):
            return
        client = await self._aws.client("s3", place.region, self._settings.endpoint_url.rstrip("/"))
        if await keeps_versions(client, place.location.bucket, self._settings.stall_timeout_s):
            self._note(
                f"bucket {place.location.bucket} keeps versions: what is deleted stays there, is billed, and holds the "
                "volume; with --versions `amistream delete` deletes it for good, later a lifecycle rule with "
                "NoncurrentVersionExpiration"
            )

    async def _bundle_to_read(self, address: str, *, region: str = "") -> Bundle:
        """The bundle of this manifest or, if there is none of that name, the only one in the folder of this address."""
        try:
            return await self._bundle(address, region=region)
        except RefusedError as missing:
            if missing.code not in {"manifest.missing", "manifest.address"} or address.endswith(MANIFEST_END):
                raise
            is_folder = address.startswith(SCHEME) or await aiofiles.os.path.isdir(address)
            place = None
            if is_folder:
                place = await open_place(parse_location(address), self._settings, self._aws, region=region)
            if place is None or not (name := await only_manifest(place)):
                raise
        return await find_bundle(place, name)

    async def _bundle(self, address: str, *, region: str = "", copy: Path | None = None) -> Bundle:
        folder, name = parse_manifest_address(address)
        return await find_bundle(await open_place(folder, self._settings, self._aws, region=region), name, copy=copy)
