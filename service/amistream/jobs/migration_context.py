"""Reaches what a migration needs: its source, its target and EC2, by the request and the settings. No checks."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

from amistream.aws import buckets
from amistream.aws.session import Aws
from amistream.bundles.manifest import parse_manifest
from amistream.bundles.migrate import MigrationRequest, open_source
from amistream.bundles.parts import StoredPart
from amistream.bundles.place import BucketPlace, Bundle, find_bundle
from amistream.checks.context import ReachContext
from amistream.errors import NoBucketError, RefusedError
from amistream.jobs.job import Job
from amistream.jobs.manifest_removal import OwnManifest
from amistream.jobs.migration_claim import MigrationClaim
from amistream.jobs.migration_records import Migrating, MigrationRecord
from amistream.location import DirectoryLocation, S3Location, parse_manifest_address, parse_s3_location
from amistream.ports.registry import Registration
from amistream.ports.store import Mark
from amistream.ports.unanswered import Late, Unanswered
from amistream.request import digest_of
from amistream.request.migrate import MigrateRequest
from amistream.settings import Settings
from amistream.stages.register import lasting_name
from amistream.stores.opening import make_object_store


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """The bundle that a migration makes: its place, its manifest, and its parts, which need not exist yet."""

    target: BucketPlace
    bundle: Bundle
    parts: tuple[StoredPart, ...]

    @property
    def address(self) -> str:
        return self.bundle.address

    @property
    def raw(self) -> bytes:
        return self.bundle.manifest.raw


class MigrationContext(ReachContext):
    """A migration's request, and the means to reach its places. `settings` are those of the job."""

    def __init__(
        self,
        job: Job,
        request: MigrateRequest,
        settings: Settings,
        aws: Aws,
        *,
        settled: Migrating | None,
        late: Late | None,
    ) -> None:
        """`settled` are the decisions of an earlier run, which stay; `late` is what that left unanswered.

        Raises `JobError` where a confined job would go on at an endpoint that the administrator has changed.
        """
        super().__init__(request, settings, aws, roots=job.roots(settings), check=job.check_lease)
        self.request = request
        self._job = job
        own: dict[str, object] = {"region": request.region, "acl": request.acl or settings.acl}
        if settled is not None:
            self.keep_endpoint(settled.endpoint_url, "the parts stored")
            own |= {"acl": settled.acl, "multipart_threshold": settled.multipart_threshold}
        self.settings = settings.model_copy(update={**own, "endpoint_url": self.endpoint_url})
        self.unanswered = Unanswered(late)
        self.location: S3Location = parse_s3_location(request.destinations[0])
        self._targets: dict[str, BucketPlace] = {}
        self._claim: MigrationClaim | None = None

    @cached_property
    def options(self) -> MigrationRequest:
        """The request in the words of the commands on bundles."""
        request = self.request
        certificate, private_key, ec2_certificate = (
            Path(each) if each else None for each in (request.certificate, request.private_key, request.ec2_certificate)
        )
        elsewhere = self.roots is None
        return MigrationRequest(
            region=request.region,
            certificate=certificate,
            private_key=private_key,
            ec2_certificate=ec2_certificate,
            kernel="" if request.no_kernel else request.kernel,
            ramdisk="" if request.no_ramdisk else request.ramdisk,
            source_endpoint_url=(request.source_endpoint_url or "") if elsewhere else "",
            source_profile=(request.source_profile or "") if elsewhere else "",
            registration=self._registration if request.register_image else None,
        )

    async def find_source(self, stack: AsyncExitStack) -> Bundle:
        """Find the bundle, whose place `stack` closes. Raises `RefusedError` or `StoreError`."""
        address = self.request.manifest
        folder, name = parse_manifest_address(address)
        if self.roots is not None and isinstance(folder, DirectoryLocation):
            raise RefusedError(
                "manifest.directory",
                f"cannot migrate {address}: only root and the daemon's own user may migrate one in a directory",
                hint="give the bundle's address in S3, s3://BUCKET/KEY/NAME.manifest.xml, or run `amistream migrate` "
                "without --detach",
                field="manifest",
            )
        place = await stack.enter_async_context(open_source(folder, self.options, self.settings, self.aws))
        return await find_bundle(place, name)

    async def target(self, region: str) -> BucketPlace:
        """The target, whose bucket is in `region`: always the same, whose store knows its unfinished uploads."""
        if region not in self._targets:
            store = await make_object_store(
                self.location,
                self.settings,
                self.aws,
                region=region,
                endpoint_url=self.endpoint_url,
                limit_upload=int(self.settings.limit_upload or 0),
                unanswered=self.unanswered,
                mark=self._mark,
                retry=self.retry,
            )
            self._targets[region] = BucketPlace(store=store, location=self.location, region=region)
        return self._targets[region]

    async def claim(self, region: str) -> MigrationClaim:
        """The claim of the job at the target: always the same, too."""
        if self._claim is None:
            self._claim = MigrationClaim(self._job, (await self.target(region)).store, self.request.prefix)
        return self._claim

    async def claim_of_dead_process(self) -> MigrationClaim | None:
        """The claim of a named job whose process may have died before it entered anything; None if there is none."""
        if not self._job.name:
            return None
        try:
            region = await buckets.bucket_region(
                self.aws,
                self.location.bucket,
                region=self.request.region or "",
                endpoint_url=self.endpoint_url,
                timeout_s=self.settings.stall_timeout_s,
            )
        except NoBucketError:
            return None
        return await self.claim(region)

    async def copy(self, record: MigrationRecord) -> Copy:
        """The bundle that is made by this record."""
        target = await self.target(record.migrating.region)
        _, name = parse_manifest_address(self.request.manifest)
        bundle = Bundle(place=target, manifest_name=name, manifest=parse_manifest(record.manifest, name))
        sizes = record.migrating.sizes
        parts = (StoredPart(part=part, size=size) for part, size in zip(bundle.manifest.parts, sizes, strict=True))
        return Copy(target=target, bundle=bundle, parts=tuple(parts))

    async def own_manifest(self, record: MigrationRecord, copy: Copy) -> OwnManifest:
        """The manifest of the copy, to be removed."""
        registration, region = record.migrating.registration, copy.target.region
        return OwnManifest(
            store=copy.target.store,
            location=copy.target.location,
            name=copy.bundle.manifest_name,
            raw=copy.raw,
            image=record.image,
            registration=registration,
            registry=await self.ec2(region) if registration else None,
            retry=self.retry,
            endpoint_url=self.endpoint_url,
            open_ec2=partial(self.ec2, region),
            check=(await self.claim(region)).check_removal,
        )

    @property
    def _mark(self) -> Mark | None:
        """The mark of a named job on all that it stores."""
        job = self._job
        return Mark(job=job.name, run=job.id, request=digest_of(job.request)) if job.name else None

    @property
    def _registration(self) -> Registration:
        """The options of the AMI. The manifest supplies what the request leaves out."""
        request, name = self.request, self._job.name
        # That of a named job is the same in every attempt: EC2 gives it to one AMI only.
        default_name = lasting_name(request.prefix, name) if name else ""
        return Registration(
            name=request.ami_name or default_name,
            description=request.description or "",
            architecture=request.architecture or "",
            virtualization=request.virtualization or "",
            kernel=request.kernel or "",
            ramdisk=request.ramdisk or "",
            sriov=request.sriov,
            ena=request.ena,
            block_device_mappings=request.block_device_mappings,
            tags=request.tags,
        )
