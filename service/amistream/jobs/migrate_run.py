"""One run of a migration: check, copy, commit, register; from the start, or from where an earlier run stopped.

The journal is always a step ahead of what exists outside: the manifest to be put is in it before the first part is
copied, each part before it is copied, and that an AMI may exist before it is registered. So a later run can finish or
remove what a crash left: exactly the parts that the job copied, and never one that was there before.

A later run puts the manifest of the first one. Parts that are there are proved by their checksums and are not copied
again; if all are there the source is not even looked at.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime
from typing import ClassVar

import structlog

from amistream.bundles.copying import check_present, find_existing_parts, refuse_other_manifest, require_same
from amistream.bundles.migrate import (
    MigrationOptions,
    check_migration_signature,
    find_migration_keys,
    is_one_service,
    migration_options,
    new_manifest,
)
from amistream.bundles.part_sender import PartSender
from amistream.bundles.parts import IN_FLIGHT_MOST, StoredPart, parts_in_flight
from amistream.bundles.place import Bundle, check_bucket, open_bucket
from amistream.bundles.register import check_registration
from amistream.bundles.survey import check_parts
from amistream.errors import JournalError, RefusedError, TakenError
from amistream.events import State
from amistream.flow.cancel import finish_despite_cancel
from amistream.flow.gather import gather_limited
from amistream.flow.undo import Progress
from amistream.jobs.bundle_progress import BundleMeter
from amistream.jobs.job import Job
from amistream.jobs.late import refuse_late
from amistream.jobs.migration_claim import MigrationClaim
from amistream.jobs.migration_context import Copy, MigrationContext
from amistream.jobs.migration_records import MigrationRecord
from amistream.jobs.migration_removal import remove_migration, unfinished
from amistream.jobs.proof import check_object
from amistream.jobs.records import JournalEntry
from amistream.jobs.reporting import reporting
from amistream.jobs.run import Shared
from amistream.location import parse_manifest_address
from amistream.plan import Migrating
from amistream.ports.registry import Registration
from amistream.ports.store import Stored, sha1_of, whole_checksum
from amistream.ports.unanswered import AMI, LIFE_S, Late, latest
from amistream.reports import Migrated, Registered
from amistream.request import MigrateRequest
from amistream.stages.register import RegistrationAttempt
from amistream.values import LARGEST_PART

log = structlog.get_logger()


class MigrateRun:
    """One run of a migration (`run.Run`)."""

    KEEPS: ClassVar[str] = "copied parts"
    ONLY_READS: ClassVar[bool] = False

    def __init__(self, job: Job, record: MigrationRecord | None, late: Late | None, shared: Shared) -> None:
        """`record` and `late` are the journal's of earlier runs; the run keeps its copy up to date.

        Raises `JobError` where the settings of an earlier run must not hold.
        """
        request = job.request
        assert isinstance(request, MigrateRequest)  # noqa: S101 - for the type checker; `KINDS` has chosen this run
        self._job = job
        self._shared = shared
        self._records = shared.journal.migrations
        self._record = record
        self._context = MigrationContext(
            job,
            request,
            shared.settings,
            shared.aws,
            settled=record.migrating if record else None,
            late=late,
        )
        self._in_flight: set[str] = set()
        self._copy: Copy | None = None
        self._taken: MigrationClaim | None = None
        self._copied_by_s3 = self._found = 0
        self._is_published = False
        self._image_id: str | None = None
        self._started = time.perf_counter()
        self.result: Migrated | None = None
        self.resumed = self._look_first = record is not None
        self.finished = False

    @classmethod
    async def load(cls, job: Job, entry: JournalEntry, shared: Shared) -> MigrateRun:
        """The run of a job with the record of earlier runs. Raises as the constructor does, and `JournalError`."""
        return cls(job, await shared.journal.migrations.find(job.id), entry.late.get(0), shared)

    @property
    def kept(self) -> int:
        return len(self._record.parts) if self._record else 0

    @property
    def worth_keeping(self) -> bool:
        return self._is_published or (self._record is not None and any(self._record.parts.values()))

    @property
    def stays(self) -> tuple[str, ...]:
        """Nothing: a migration is finished as a whole."""
        return ()

    @property
    def late_until(self) -> datetime | None:
        late = self._context.unanswered.late
        return latest({0: late}) if late else None

    async def run(self) -> Migrated:
        await self._move(State.CHECKING)
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._enter_late)
            source = None
            if self._record is None:
                source = await self._context.find_source(stack)
                there = await self._begin(source)
            else:
                there = await self._go_on(self._record)
            copy, missing = self._made, [part for part in self._made.parts if part.name not in there]
            if missing and source is None:
                source = await self._find_same_source(stack, copy)
            await self._move(State.COPYING)
            await self._adopt(there)
            await self._copy_parts(source, there)
            await self._move(State.COMMITTING)
            await self._commit(copy)
            await self._register(copy)
            await self._claim.release_done(copy.bundle.manifest_name)
        return self.conclude()

    def conclude(self) -> Migrated:
        copy, registration = self._made, self._known.migrating.registration
        manifest, image = copy.bundle.manifest, None
        if registration is not None:
            assert self._image_id  # noqa: S101 - for the type checker; it is finished
            image = Registered(
                image_id=self._image_id,
                image_name=registration.name,
                manifest=copy.address,
                region=copy.target.region,
            )
        self.result = Migrated(
            manifest=copy.address,
            source=self._context.request.manifest,
            parts=len(copy.parts),
            kept=self._found,
            bundled_size=manifest.bundled_size,
            elapsed_s=round(time.perf_counter() - self._started, 3),
            region=copy.target.region,
            copied=self._copied_by_s3,
            kernel=manifest.kernel or None,
            ramdisk=manifest.ramdisk or None,
            image=image,
        )
        return self.result

    async def undo(self, progress: Progress) -> None:
        record = self._record
        if record is None:
            # Neither this run nor an earlier one has copied anything, but its claim may be there.
            claim = self._taken
            if claim is None and self._job.ran_before:
                claim = await self._context.claim_of_dead_process()
            if claim is not None:
                await claim.release()
            return
        claim = await self._context.claim(record.migrating.region)
        if not await claim.is_ours():
            self._job.note(f"nothing is removed from {self._context.location}: another host has this job")
            return
        copy = self._copy or await self._context.copy(record)
        manifest = await self._context.own_manifest(record, copy)
        try:
            await remove_migration(record, copy, manifest, progress, self._job.note)
        finally:
            await self._enter_late()
        # The next removal goes by the claim.
        refuse_late({0: self._context.unanswered.late}, self._described)
        await claim.release()

    @property
    def _known(self) -> MigrationRecord:
        assert self._record is not None  # noqa: S101 - for the type checker; the migration has begun
        return self._record

    @property
    def _claim(self) -> MigrationClaim:
        assert self._taken is not None  # noqa: S101 - for the type checker; the target is claimed
        return self._taken

    @property
    def _made(self) -> Copy:
        assert self._copy is not None  # noqa: S101 - for the type checker; the place was looked at
        return self._copy

    @property
    def _late(self) -> Late:
        """The things that may still appear if this process dies now: those in flight, too."""
        until, late = time.time() + LIFE_S, self._context.unanswered.late
        return late | {name: (*late.get(name, ()), until) for name in self._in_flight}

    async def _begin(self, source: Bundle) -> Mapping[str, Stored]:
        """Check all that can be known before the first part, and settle what every run keeps to.

        Returns the parts that are there already.
        """
        context, note = self._context, self._job.note
        settings, aws, region = context.settings, self._shared.aws, context.request.region
        keys = await asyncio.to_thread(find_migration_keys, context.options, settings, context.roots)
        if keys.notice:
            note(keys.notice)
        bucket = await open_bucket(context.location, settings, aws, region=region)
        await check_bucket(bucket, settings, aws, note, region=region)
        check_migration_signature(source, keys.identity, note)
        options = migration_options(source, bucket, keys, context.options, settings)
        parts = await check_parts(source)
        raw = await self._take_claim(bucket.region, source.manifest_name)
        if raw is None:
            raw = await asyncio.to_thread(new_manifest, source.manifest, options)
        record = MigrationRecord(
            migrating=Migrating(
                sizes=tuple(part.size for part in parts),
                region=bucket.region,
                endpoint_url=settings.endpoint_url,
                acl=settings.acl,
                multipart_threshold=int(settings.multipart_threshold),
                registration=None,
            ),
            manifest=raw,
        )
        copy = await context.copy(record)
        _check_same(source, copy)
        there = await self._look(copy, record)
        record.settle_registration(await self._check_registration(copy, options))
        await self._records.begin(self._job.id, record)
        self._record = record
        return there

    async def _go_on(self, record: MigrationRecord) -> Mapping[str, Stored]:
        """Continue what earlier runs have begun. Returns the parts that are there already."""
        _, name = parse_manifest_address(self._context.request.manifest)
        if earlier := await self._take_claim(record.migrating.region, name):
            record.know_manifest(earlier)
            await self._records.replace_manifest(self._job.id, earlier)
        return await self._look(await self._context.copy(record), record)

    async def _take_claim(self, region: str, manifest_name: str) -> bytes | None:
        """Claim the target; returns the manifest that an earlier attempt of the job has put there, if one has."""
        self._taken = await self._context.claim(region)
        await self._taken.take()
        return await self._taken.earlier_manifest(manifest_name)

    async def _adopt(self, there: Mapping[str, Stored]) -> None:
        """Enter the parts that earlier attempts of the job have stored as this run's own."""
        names = {part.name for part in self._made.parts}
        await self._claim.sweep(self._made.bundle.manifest.name, names)
        for part in self._made.parts:
            stored = there.get(part.name)
            if stored is not None and part.name not in self._known.parts and self._claim.is_own(stored):
                await self._records.copying(self._job.id, part.part.index, part.name, self._late)
                self._known.know_part(part.name, stored=False)

    async def _look(self, copy: Copy, record: MigrationRecord) -> Mapping[str, Stored]:
        """Look at the target: the parts that are there. Raises `AmistreamError` for another bundle, or other objects.

        Nothing is read yet.
        """
        store = copy.target.store
        await refuse_other_manifest(store, copy.bundle.manifest_name, copy.raw)
        there = await find_existing_parts(store, copy.parts, own=record.parts)
        self._copy = copy
        return there

    async def _check_registration(self, copy: Copy, options: MigrationOptions) -> Registration | None:
        """The registration as EC2 permits it; None if none is wanted."""
        if options.registration is None:
            return None
        intent = await check_registration(
            copy.bundle,
            options.registration,
            self._context.settings,
            await self._context.ec2(copy.target.region),
            self._job.note,
            mark=self._job.name or self._job.id,
        )
        self._look_first = bool(intent.image_id)
        return intent.registration

    async def _find_same_source(self, stack: AsyncExitStack, copy: Copy) -> Bundle:
        """The source again. Raises `RefusedError` if it is another bundle by now."""
        source = await self._context.find_source(stack)
        _check_same(source, copy)
        await check_parts(source)
        return source

    async def _copy_parts(self, source: Bundle | None, there: Mapping[str, Stored]) -> None:
        """Copy the missing parts, and prove the others. `source` is None if all are there."""
        copy, record, settings = self._made, self._known, self._context.settings
        store, meter = copy.target.store, BundleMeter()
        own = [part for part in copy.parts if part.name in record.parts and part.name not in there]
        await store.tidy(unfinished(record, own))
        sender = self._sender(source, copy) if source else None

        async def one(part: StoredPart) -> None:
            stored = there.get(part.name)
            if stored is None:
                assert sender is not None  # noqa: S101 - for the type checker; a part is missing
                await self._send(sender, part)
            else:
                await require_same(store, part, stored)
                self._found += 1
                if part.name in record.parts:
                    await self._know_stored(part)
            meter.counters.done(part.size, kept=stored is not None)

        meter.counters.begin(len(copy.parts), copy.bundle.manifest.bundled_size)
        async with reporting(self._job, meter):
            await gather_limited(one, copy.parts, parts_in_flight(settings, copy.parts))
        self._copied_by_s3 = sender.copied_by_s3 if sender else 0

    def _sender(self, source: Bundle, copy: Copy) -> PartSender:
        context = self._context
        return PartSender(
            source,
            copy.target.store,
            self._job.note,
            server_side=is_one_service(context.options, context.settings),
            most_read=LARGEST_PART if context.roots is None else IN_FLIGHT_MOST,
        )

    async def _send(self, sender: PartSender, part: StoredPart) -> None:
        self._in_flight.add(part.name)
        try:
            await self._records.copying(self._job.id, part.part.index, part.name, self._late)
            self._known.know_part(part.name, stored=False)
            await sender.send(part, lambda: None)
        finally:
            self._in_flight.discard(part.name)
        await self._know_stored(part)

    async def _know_stored(self, part: StoredPart) -> None:
        if not self._known.parts[part.name]:
            self._known.know_part(part.name, stored=True)
            await self._records.copied(self._job.id, part.part.index, self._late)

    async def _commit(self, copy: Copy) -> None:
        """Put the manifest, once more if an earlier run may have put it."""
        store, name, sha1 = copy.target.store, copy.bundle.manifest_name, sha1_of(copy.raw)
        await check_present(store, copy.parts)
        await self._claim.check()
        self._is_published = True
        try:
            async with self._awaiting(name):
                await store.commit(name, copy.raw, sha1)
        except TakenError as error:
            raise await self._claim.cause(error, name) from error
        await check_object(store, name, len(copy.raw), whole_checksum(sha1))
        # Of a manifest that came too late nothing is registered, and nothing said.
        await self._claim.check()

    @asynccontextmanager
    async def _awaiting(self, name: str) -> AsyncIterator[None]:
        """Enter that an object may appear from the block on."""
        self._in_flight.add(name)
        try:
            await self._shared.journal.late(self._job.id, {0: self._late})
            yield
        finally:
            self._in_flight.discard(name)

    async def _register(self, copy: Copy) -> None:
        registration, settings = self._known.migrating.registration, self._context.settings
        if registration is not None:
            await self._move(State.REGISTERING)
            attempt = RegistrationAttempt(
                registry=await self._context.ec2(copy.target.region),
                registration=registration,
                retry=self._context.retry,
                record=self._know_image,
                own=self._known.image,
                look_first=self._look_first,
            )
            self._image_id = await attempt.run(timeout_s=settings.register_timeout_s, poll_s=settings.register_poll_s)
        self.finished = True

    async def _know_image(self, image_id: str | None) -> None:
        self._context.unanswered.forget(AMI)
        if image_id is None:
            self._context.unanswered.given_up(AMI)
        self._known.know_image(image_id)
        await self._records.registering(self._job.id, image_id, self._late)

    async def _enter_late(self) -> None:
        """Record what may still appear. A journal that fails must not hide why the run ends."""
        if self._record is None:
            return
        late = self._context.unanswered.late
        try:
            await finish_despite_cancel(self._shared.journal.late(self._job.id, {0: late} if late else {}))
        except JournalError as error:
            log.warning("journal.failed", reason=error.message)

    def _described(self, _: int, name: str) -> str:
        registration = self._known.migrating.registration
        if name == AMI and registration is not None:
            return f"the AMI {registration.name!r}"
        return f"{self._context.location}/{name}"

    async def _move(self, state: State) -> None:
        self._job.move(state)
        await self._shared.journal.update(self._job.view())


def _check_same(source: Bundle, copy: Copy) -> None:
    """Raise `RefusedError` if the source is another bundle than the one that an earlier run began to copy."""
    wanted = copy.bundle.manifest
    if (source.manifest.parts, source.manifest.digest) != (wanted.parts, wanted.digest):
        raise RefusedError(
            "resume.changed",
            f"cannot go on: {source.address} is another bundle than when this job began",
            hint="cancel the job, which removes what it copied, and migrate the bundle again",
            field="manifest",
        )
