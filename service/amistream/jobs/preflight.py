"""Everything that can be known before the first byte is read: a request and the settings become a `Ready` job, or
are refused.

Checks go from what is near and quick to what is far: volume, keys, destination, EC2. Each failure is an error of
its own with its fix; things that only may go wrong become notices.
"""

from __future__ import annotations

import asyncio
import secrets
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509

from amistream.aws import buckets, metadata, regions
from amistream.aws.ec2 import Ec2
from amistream.aws.session import Aws
from amistream.errors import RefusedError
from amistream.flow.uncut import uncut
from amistream.jobs.destination import Address, Destination
from amistream.jobs.journal import Bundling
from amistream.jobs.request import JobRequest
from amistream.keys import UserIdentity, load_identity, own_identity
from amistream.pipeline import Plan
from amistream.settings import Settings, Sparse, concurrency_within, memory_ceiling
from amistream.source.volume import FileVolume, Kind, open_volume
from amistream.stages.compress import level_number
from amistream.stages.manifest import SIGNED_MAX, ImageFacts, signed_size
from amistream.stages.register import Registration
from amistream.stores.port import Store
from amistream.values import GIB, MIB, Extent, manifest_name

Note = Callable[[str], None]
"""Takes a notice for the user."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """A job that passed. It owns the open volume: `close` it."""

    plan: Plan
    volume: FileVolume
    destination: Destination
    identity: UserIdentity
    ec2_certificate: x509.Certificate
    facts: ImageFacts

    async def close(self) -> None:
        await asyncio.to_thread(self.volume.close)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurable:
    """A volume and a place to send it to, checked as far as a trial needs that makes no bundle. Close it as `Ready`."""

    plan: Plan
    volume: FileVolume
    store: Store

    async def close(self) -> None:
        await asyncio.to_thread(self.volume.close)


async def check(address: Address, note: Note, *, bundling: Bundling | None = None) -> Ready:
    """Check everything and open the volume. Raises `RefusedError` or `StoreError`; nothing is left behind.

    `bundling` is what an earlier pass of the same job settled: it stays, and what that pass stored is not in the way.
    """
    async with _checks(address, note) as checks:
        return await checks.run(bundling)


async def check_measurable(request: JobRequest, settings: Settings, aws: Aws, note: Note) -> Measurable:
    """Check volume and destination only: a trial needs neither keys nor an account. Raises as `check` does."""
    address = Address(request, settings, aws, secrets.token_hex(4))
    async with _checks(address, note) as checks:
        plan = await asyncio.to_thread(checks.check_volume)
        store = await checks.make_store("" if request.directory else await checks.bucket_region())
        return Measurable(plan=plan, volume=checks.volume, store=store)


@asynccontextmanager
async def _checks(address: Address, note: Note) -> AsyncIterator[_Checks]:
    """The checks of one request, with what they opened closed again when one fails, and their notices told."""
    volume = await asyncio.to_thread(open_volume, Path(address.request.source))
    checks = _Checks(address, volume)
    try:
        yield checks
    except BaseException:
        volume.close()
        if checks.store is not None:
            await uncut(checks.store.close())
        raise
    finally:
        # Some were found on threads, and `note` belongs to the event loop.
        for notice in checks.notices:
            note(notice)


class _Checks:
    """One request's checks; the methods stand in the order in which they run."""

    def __init__(self, address: Address, volume: FileVolume) -> None:
        self.address = address
        self.request = address.request
        self.settings = address.settings
        self.aws = address.aws
        self.notices: list[str] = []
        self.store: Store | None = None
        self.volume = volume
        self.prefix = address.prefix

    async def run(self, bundling: Bundling | None) -> Ready:
        request, settings = self.request, self.settings
        plan = await asyncio.to_thread(self.check_volume)
        identity = await asyncio.to_thread(self._identity)
        if request.directory:
            region = request.region or await self.aws.default_region()
        else:
            region = await self.bucket_region()
        certificate, notice = await asyncio.to_thread(
            regions.find_ec2_certificate,
            region,
            explicit=Path(request.ec2_certificate) if request.ec2_certificate else None,
            configured=settings.ec2_certificates,
        )
        if notice:
            self.notices.append(notice)
        facts = bundling.facts if bundling else await self._facts(region)
        store = await self.make_store(region)
        if bundling is None:
            await self._check_free(store)
        ec2 = registration = None
        if request.registers:
            ec2 = await self.address.ec2(region)
            registration = (bundling and bundling.registration) or self._registration(facts)
            await self._check_registration(ec2, registration)
        return Ready(
            plan=plan,
            volume=self.volume,
            destination=Destination(
                store=store, retry=self.address.retry, region=region, ec2=ec2, registration=registration
            ),
            identity=identity,
            ec2_certificate=certificate,
            facts=facts,
        )

    def check_volume(self) -> Plan:
        request, settings, volume = self.request, self.settings, self.volume
        if volume.size == 0:
            raise RefusedError(
                "source.empty",
                f"cannot bundle {volume.path}: it is empty",
                hint="check the path",
                field="source",
            )
        if volume.size > settings.max_image_size:
            raise RefusedError(
                "source.too_large",
                f"cannot bundle {volume.path}: it has {volume.size / GIB:.2f} GiB, and an instance store-backed image "
                f"has at most {settings.max_image_size / GIB:g} GiB",
                hint="shrink the file system (resize2fs) and the volume; other clouds may take more: max_image_size",
                field="source",
            )
        if volume.kind is Kind.BLOCK_DEVICE and (place := volume.mounted_writable()):
            self.notices.append(
                f"{volume.path} is mounted read-write on {place}: what is written meanwhile tears the image; "
                "unmount it, freeze it (fsfreeze), or bundle a snapshot"
            )
        part_size = int(request.part_size or settings.part_size)
        # Incompressible data grows by far less than this thousandth.
        most_parts = (volume.size + volume.size // 1000) // part_size + 1
        if signed_size(self.prefix, most_parts) > SIGNED_MAX:
            raise RefusedError(
                "part_size.too_small",
                f"cannot cut {volume.size / GIB:.2f} GiB into parts of {part_size} bytes: EC2's check takes about "
                "7000 parts",
                hint="give a larger --part-size; 10MiB is what the AMI tools use",
                field="part_size",
            )
        workers = request.workers or settings.worker_count()
        return Plan(
            prefix=self.prefix,
            part_size=part_size,
            block_size=int(settings.block_size),
            workers=workers,
            level=level_number(request.compress or settings.compress),
            upload_concurrency=self._concurrency(workers, part_size),
            nice=settings.nice if request.nice is None else request.nice,
            extents=self._extents(),
        )

    def _concurrency(self, workers: int, part_size: int) -> int:
        """Parts in flight: as asked, or as many as the memory limit has room for."""
        wanted = self.request.upload_concurrency or self.settings.upload_concurrency
        limit = self.request.memory_limit or self.settings.memory_limit
        if limit is None:
            return wanted
        block_size = int(self.settings.block_size)
        fitting = concurrency_within(limit, workers=workers, block_size=block_size, part_size=part_size)
        if fitting < 1:
            least = memory_ceiling(workers=workers, block_size=block_size, part_size=part_size, upload_concurrency=1)
            raise RefusedError(
                "memory_limit.too_small",
                f"cannot keep within {limit / MIB:.0f} MiB: {workers} workers and one part of {part_size / MIB:g} MiB "
                f"in flight need {least / MIB:.0f} MiB",
                hint="give a larger --memory-limit, or a smaller --part-size, or fewer --workers",
                field="memory_limit",
            )
        return min(wanted, fitting)

    def _extents(self) -> tuple[Extent, ...] | None:
        wish = self.request.sparse or self.settings.sparse
        if wish is Sparse.NEVER:
            return None
        extents = self.volume.extents()
        dense = sum(extent.length for extent in extents) == self.volume.size
        return None if dense and wish is Sparse.AUTO else extents

    def _identity(self) -> UserIdentity:
        certificate = self.request.certificate or self.settings.certificate
        private_key = self.request.private_key or self.settings.private_key
        if certificate and private_key:
            return load_identity(Path(certificate), Path(private_key))
        if certificate or private_key:
            missing = "private_key" if certificate else "certificate"
            raise RefusedError(
                "key.half",
                f"cannot sign the bundle: a {'certificate' if certificate else 'private key'} was given alone",
                hint="give both --cert and --private-key, or neither to use a key pair made for this machine",
                field=missing,
            )
        identity, made = own_identity(self.settings.state_dir)
        verb = "made" if made else "used"
        self.notices.append(
            f"no user certificate was given: {verb} the key pair in {self.settings.state_dir}; keep a copy of it"
        )
        return identity

    async def bucket_region(self) -> str:
        asked = self.request.region or ""
        found = await buckets.bucket_region(
            self.aws,
            self.address.bucket,
            region=asked,
            endpoint_url=self.address.endpoint_url,
            timeout_s=self.settings.stall_timeout_s,
        )
        if asked and asked != found:
            raise RefusedError(
                "bucket.region",
                f"cannot use the bucket {self.address.bucket} in {asked}: it is in {found}, and EC2 registers in the "
                "bucket's region only",
                hint=f"leave --region out or give --region {found}; or choose a bucket in {asked}",
                field="region",
            )
        return found

    async def _facts(self, region: str) -> ImageFacts:
        request = self.request
        inherited = await metadata.inherited() if request.inherit else metadata.Inherited()
        return ImageFacts(
            prefix=self.prefix,
            user=request.account or self.settings.account or await self._account(region),
            architecture=request.architecture or self.settings.architecture,
            kernel=request.kernel or inherited.kernel,
            ramdisk=request.ramdisk or inherited.ramdisk,
            product_codes=tuple(dict.fromkeys((*request.product_codes, *inherited.product_codes))),
            ancestors=request.ancestors or inherited.ancestors,
            block_device_mappings={**inherited.block_device_mappings, **request.block_device_mappings},
        )

    async def _account(self, region: str) -> str:
        if self.request.directory and not self.address.endpoint_url and not await self.aws.has_credentials():
            raise RefusedError(
                "account.missing",
                "cannot write the manifest: the AWS account id is not known, and there are no credentials to ask with",
                hint="give --account 123456789012, or set AWS_ACCOUNT_ID",
                field="account",
            )
        return await self.aws.account_id(region, self.address.endpoint_url)

    async def make_store(self, region: str) -> Store:
        """Open the destination once it is known to be fit."""
        if self.address.directory is None:
            await self._check_bucket(region)
        self.store = await self.address.store(region)
        await self.store.open()
        if self.address.directory is not None:
            await self._check_room(self.address.directory)
        return self.store

    async def _check_room(self, directory: Path) -> None:
        free = (await asyncio.to_thread(shutil.disk_usage, directory)).free
        if free < self.volume.size:
            self.notices.append(
                f"{directory} has {free / GIB:.1f} GiB free for a volume of {self.volume.size / GIB:.1f} GiB: "
                "the bundle fits only if the volume compresses well"
            )

    async def _check_bucket(self, region: str) -> None:
        bucket, timeout_s = self.address.bucket, self.settings.stall_timeout_s
        client = await self.address.client("s3", region)
        for notice in (
            await buckets.check_acls(client, bucket, timeout_s),
            await buckets.encryption_notice(client, bucket, timeout_s),
        ):
            if notice:
                self.notices.append(notice)
        acl = self.request.acl or self.settings.acl
        await uncut(
            buckets.check_writable(
                client, bucket, self.address.key_prefix, acl, timeout_s, probe=self.address.probe_name
            )
        )

    async def _check_free(self, store: Store) -> None:
        """Refuse a destination that holds a bundle of this prefix, whole or not: nothing is ever overwritten."""
        manifest = manifest_name(self.prefix)
        if await store.stat(manifest) is not None:
            raise RefusedError(
                "destination.exists",
                f"cannot bundle to {store.location}: there is a bundle already, {manifest}",
                hint="choose another --prefix or destination; overwriting would break the AMI registered on it",
                field="destinations",
            )
        parts = await store.names(f"{self.prefix}.part.")
        if parts:
            remove = "rm" if self.request.directory else "aws s3 rm"
            raise RefusedError(
                "destination.leftover",
                f"cannot bundle to {store.location}: parts of an unfinished bundle are there, {len(parts)} of them",
                hint=f"choose another --prefix; or, if nothing else is writing there, remove them: "
                f"{remove} {store.location}/{parts[0]} and so on",
                field="destinations",
            )

    def _registration(self, facts: ImageFacts) -> Registration:
        request = self.request
        paravirtual = request.virtualization == "paravirtual"
        return Registration(
            location=self.address.image_location,
            name=request.image_name(self.prefix, datetime.now(UTC)),
            architecture=facts.architecture,
            virtualization=request.virtualization,
            description=request.description or "",
            kernel=facts.kernel if paravirtual else "",
            ramdisk=facts.ramdisk if paravirtual else "",
            sriov=request.sriov,
            ena=request.ena,
            block_device_mappings=facts.block_device_mappings,
            tags=request.tags,
        )

    async def _check_registration(self, ec2: Ec2, registration: Registration) -> None:
        taken = await ec2.find(registration.name)
        if taken is not None and taken.location != registration.location:
            raise RefusedError(
                "ami_name.taken",
                f"cannot register the AMI name {registration.name!r}: {taken.id} has it in {ec2.region}",
                hint=f"choose another --ami-name, or first: aws ec2 deregister-image --image-id {taken.id}",
                field="ami_name",
            )
        if taken is None:
            await uncut(ec2.may_register(registration))
