"""One run of a migration: check, copy, commit, register; from the start, or from where an earlier run stopped.

The journal is always a step ahead of what exists outside: the manifest to be put is in it before the first part is
copied, each part before it is copied, and that an AMI may exist before it is registered. So a later run can finish or
remove what a crash left: exactly the parts that the job copied, and never one that was there before.

A later run puts the manifest of the first one. Parts that are there are proved by their checksums and are not copied
again; if all are there the source is not even looked at.
"""

from __future__ import annotations

import time
from contextlib import AsyncExitStack
from datetime import datetime
from typing import ClassVar

from amistream.bundles.copying import check_present
from amistream.errors import TakenError
from amistream.events import State
from amistream.flow.undo import Progress
from amistream.jobs.job import Job
from amistream.jobs.late import refuse_late
from amistream.jobs.migration_context import Copy, MigrationContext
from amistream.jobs.migration_records import MigrationRecord
from amistream.jobs.migration_removal import remove_migration
from amistream.jobs.migration_start import begin, find_same_source, go_on
from amistream.jobs.own_copy import OwnCopy
from amistream.jobs.proof import check_object
from amistream.jobs.records import JournalEntry
from amistream.jobs.run import Shared
from amistream.ports.store import sha1_of, whole_checksum
from amistream.ports.unanswered import Late, latest
from amistream.reports import Migrated, Registered
from amistream.request.migrate import MigrateRequest
from amistream.stages.register import RegistrationAttempt


class MigrateRun:
    """One run of a migration (`run.Run`)."""

    KEEPS: ClassVar[str] = "copied parts"
    ONLY_READS: ClassVar[bool] = False

    def __init__(self, job: Job, record: MigrationRecord | None, late: Late | None, shared: Shared) -> None:
        """`record` and `late` are the journal's of earlier runs; the run keeps its copy up to date.

        Raises `JobError` where the settings of an earlier run must not hold.
        """
        request = job.request
        assert isinstance(request, MigrateRequest)  # noqa: S101 - for the type checker; `load_run` has chosen this run
        self._job = job
        self._shared = shared
        self._context = MigrationContext(
            job,
            request,
            shared.settings,
            shared.aws,
            settled=record.migrating if record else None,
            late=late,
        )
        self._own = OwnCopy(job, self._context, shared, record)
        self._is_published = False
        self._image_id: str | None = None
        self._started = time.perf_counter()
        self.result: Migrated | None = None
        self.resumed = record is not None
        self.finished = False

    @classmethod
    async def load(cls, job: Job, entry: JournalEntry, shared: Shared) -> MigrateRun:
        """The run of a job with the record of earlier runs. Raises as the constructor does, and `JournalError`."""
        return cls(job, await shared.journal.migrations.find(job.id), entry.late.get(0), shared)

    @property
    def kept(self) -> int:
        return len(self._own.record.parts) if self._own.record else 0

    @property
    def worth_keeping(self) -> bool:
        record = self._own.record
        return self._is_published or (record is not None and any(record.parts.values()))

    @property
    def stays(self) -> tuple[str, ...]:
        """Nothing: a migration is finished as a whole."""
        return ()

    @property
    def late_until(self) -> datetime | None:
        late = self._context.unanswered.late
        return latest({0: late}) if late else None

    async def run(self) -> Migrated:
        own = self._own
        await self._move(State.CHECKING)
        async with AsyncExitStack() as stack:
            stack.push_async_callback(own.enter_late)
            source = None
            if own.record is None:
                source = await self._context.find_source(stack)
                there = await begin(own, source)
            else:
                there = await go_on(own)
            if source is None and any(part.name not in there for part in own.copy.parts):
                source = await find_same_source(own, stack)
            await self._move(State.COPYING)
            await own.adopt(there)
            await own.copy_parts(source, there)
            await self._move(State.COMMITTING)
            await self._commit(own.copy)
            await self._register(own.copy)
            await own.claim.release_done(own.copy.bundle.manifest_name)
        return self.conclude()

    def conclude(self) -> Migrated:
        own = self._own
        copy, registration = own.copy, own.known.migrating.registration
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
            kept=own.found,
            bundled_size=manifest.bundled_size,
            elapsed_s=round(time.perf_counter() - self._started, 3),
            region=copy.target.region,
            copied=own.copied_by_s3,
            kernel=manifest.kernel or None,
            ramdisk=manifest.ramdisk or None,
            image=image,
        )
        return self.result

    async def undo(self, progress: Progress) -> None:
        own = self._own
        record = own.record
        if record is None:
            # Neither this run nor an earlier one has copied anything, but its claim may be there.
            claim = own.taken
            if claim is None and self._job.ran_before:
                claim = await self._context.claim_of_dead_process()
            if claim is not None:
                await claim.release()
            return
        claim = await self._context.claim(record.migrating.region)
        if not await claim.is_ours():
            self._job.note(f"nothing is removed from {self._context.location}: another host has this job")
            return
        copy = own.made or await self._context.copy(record)
        manifest = await self._context.own_manifest(record, copy)
        try:
            await remove_migration(record, copy, manifest, progress, self._job.note)
        finally:
            await own.enter_late()
        # The next removal goes by the claim.
        refuse_late({0: self._context.unanswered.late}, own.describe)
        await claim.release()

    async def _commit(self, copy: Copy) -> None:
        """Put the manifest, once more if an earlier run may have put it."""
        own, store = self._own, copy.target.store
        name, sha1 = copy.bundle.manifest_name, sha1_of(copy.raw)
        await check_present(store, copy.parts)
        await own.claim.check()
        self._is_published = True
        try:
            async with own.awaiting(name):
                await store.commit(name, copy.raw, sha1)
        except TakenError as error:
            raise await own.claim.cause(error, name) from error
        await check_object(store, name, len(copy.raw), whole_checksum(sha1))
        # Of a manifest that came too late nothing is registered, and nothing said.
        await own.claim.check()

    async def _register(self, copy: Copy) -> None:
        own, settings = self._own, self._context.settings
        registration = own.known.migrating.registration
        if registration is not None:
            await self._move(State.REGISTERING)
            attempt = RegistrationAttempt(
                registry=await self._context.ec2(copy.target.region),
                registration=registration,
                retry=self._context.retry,
                record=own.enter_image,
                own=own.known.image,
                look_first=own.look_first,
            )
            self._image_id = await attempt.run(timeout_s=settings.register_timeout_s, poll_s=settings.register_poll_s)
        self.finished = True

    async def _move(self, state: State) -> None:
        self._job.move(state)
        await self._shared.journal.update(self._job.view())
