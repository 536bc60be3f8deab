"""The copy that a migration's run makes, as the journal has it and as it is at the target.

Each part is in the journal before it is copied, and what may still appear if this process dies. Parts that are there
are proved by their checksums and are not copied again; those of earlier attempts of the job become this run's own.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import structlog

from amistream.bundles.copying import find_existing_parts, lost_error, refuse_other_manifest, require_same
from amistream.bundles.migrate import is_one_service
from amistream.bundles.part_sender import PartSender
from amistream.bundles.parts import IN_FLIGHT_MOST, StoredPart, parts_in_flight
from amistream.bundles.place import Bundle
from amistream.errors import BundleExistsError, JournalError, StoreError
from amistream.flow.cancel import finish_despite_cancel
from amistream.flow.gather import gather_limited
from amistream.jobs.bundle_progress import BundleMeter
from amistream.jobs.job import Job
from amistream.jobs.migration_claim import MigrationClaim
from amistream.jobs.migration_context import Copy, MigrationContext
from amistream.jobs.migration_records import MigrationRecord
from amistream.jobs.migration_removal import unfinished
from amistream.jobs.reporting import reporting
from amistream.jobs.run import Shared
from amistream.ports.store import Store, Stored
from amistream.ports.unanswered import AMI, LIFE_S, Late
from amistream.values import LARGEST_PART

log = structlog.get_logger()


class OwnCopy:
    """`record` is None before the migration has begun; `copy` and `claim` are there once the target was looked at."""

    def __init__(self, job: Job, context: MigrationContext, shared: Shared, record: MigrationRecord | None) -> None:
        self.job = job
        self.context = context
        self.shared = shared
        self.record = record
        self.copied_by_s3 = self.found = 0
        self.look_first = record is not None
        """There may be an AMI of the name already."""
        self.taken: MigrationClaim | None = None
        self.made: Copy | None = None
        self._records = shared.journal.migrations
        self._in_flight: set[str] = set()

    @property
    def known(self) -> MigrationRecord:
        assert self.record is not None  # noqa: S101 - for the type checker; the migration has begun
        return self.record

    @property
    def claim(self) -> MigrationClaim:
        assert self.taken is not None  # noqa: S101 - for the type checker; the target is claimed
        return self.taken

    @property
    def copy(self) -> Copy:
        assert self.made is not None  # noqa: S101 - for the type checker; the place was looked at
        return self.made

    async def take_claim(self, region: str, manifest_name: str) -> bytes | None:
        """Claim the target; returns the manifest that an earlier attempt of the job has put there, if one has."""
        self.taken = await self.context.claim(region)
        await self.taken.take()
        return await self.taken.earlier_manifest(manifest_name)

    async def look(self, copy: Copy, record: MigrationRecord) -> Mapping[str, Stored]:
        """Look at the target: the parts that are there. Raises `AmistreamError` for another bundle, or other objects.

        Nothing is read yet.
        """
        store = copy.target.store
        try:
            await refuse_other_manifest(store, copy.bundle.manifest_name, copy.raw)
        except BundleExistsError as error:
            raise await self.claim.cause(error, copy.bundle.manifest_name) from error
        there = await find_existing_parts(store, copy.parts, own=record.parts)
        self.made = copy
        return there

    async def enter(self, record: MigrationRecord) -> None:
        """Enter the decisions that every run keeps to."""
        await self._records.begin(self.job.id, record)
        self.record = record

    async def enter_manifest(self, raw: bytes) -> None:
        """Enter the manifest that another attempt of the job has put."""
        self.known.know_manifest(raw)
        await self._records.replace_manifest(self.job.id, raw)

    async def enter_image(self, image_id: str | None) -> None:
        """Enter the AMI, None while it is unknown."""
        unanswered = self.context.unanswered
        unanswered.forget(AMI)
        if image_id is None:
            unanswered.given_up(AMI)
        self.known.know_image(image_id)
        await self._records.registering(self.job.id, image_id, self._late)

    async def enter_late(self) -> None:
        """Record what may still appear. A journal that fails must not hide why the run ends."""
        if self.record is None:
            return
        late = self.context.unanswered.late
        try:
            await finish_despite_cancel(self.shared.journal.late(self.job.id, {0: late} if late else {}))
        except JournalError as error:
            log.warning("journal.failed", reason=error.message)

    async def adopt(self, there: Mapping[str, Stored]) -> None:
        """Enter the parts that earlier attempts of the job have stored as this run's own."""
        names = {part.name for part in self.copy.parts}
        await self.claim.sweep(self.copy.bundle.manifest.name, names)
        for part in self.copy.parts:
            stored = there.get(part.name)
            if stored is not None and part.name not in self.known.parts and self.claim.is_own(stored):
                await self._records.copying(self.job.id, part.part.index, part.name, self._late)
                self.known.know_part(part.name, stored=False)

    async def copy_parts(self, source: Bundle | None, there: Mapping[str, Stored]) -> None:
        """Copy the missing parts, and prove the others. `source` is None if all are there."""
        copy, record = self.copy, self.known
        store, meter = copy.target.store, BundleMeter()
        own = [part for part in copy.parts if part.name in record.parts and part.name not in there]
        await store.tidy(unfinished(record, own))
        sender = self._sender(source) if source else None

        async def one(part: StoredPart) -> None:
            stored = there.get(part.name)
            if stored is not None and not await _is_there(store, part, stored):
                stored = None
            if stored is None:
                if sender is None:
                    raise lost_error(store, part.name)
                await self._send(sender, part)
            else:
                self.found += 1
                if part.name in record.parts:
                    await self._know_stored(part)
            meter.counters.done(part.size, kept=stored is not None)

        meter.counters.begin(len(copy.parts), copy.bundle.manifest.bundled_size)
        async with reporting(self.job, meter):
            await gather_limited(one, copy.parts, parts_in_flight(self.context.settings, copy.parts))
        self.copied_by_s3 = sender.copied_by_s3 if sender else 0

    @asynccontextmanager
    async def awaiting(self, name: str) -> AsyncIterator[None]:
        """Enter that an object may appear from the block on."""
        self._in_flight.add(name)
        try:
            await self.shared.journal.late(self.job.id, {0: self._late})
            yield
        finally:
            self._in_flight.discard(name)

    def describe(self, _: int, name: str) -> str:
        """Name a thing that may still appear, for users."""
        registration = self.known.migrating.registration
        if name == AMI and registration is not None:
            return f"the AMI {registration.name!r}"
        return f"{self.context.location}/{name}"

    @property
    def _late(self) -> Late:
        """The things that may still appear if this process dies now: those in flight, too."""
        until, late = time.time() + LIFE_S, self.context.unanswered.late
        return late | {name: (*late.get(name, ()), until) for name in self._in_flight}

    def _sender(self, source: Bundle) -> PartSender:
        context = self.context
        return PartSender(
            source,
            self.copy.target.store,
            self.job.note,
            server_side=is_one_service(context.options, context.settings),
            most_read=LARGEST_PART if context.roots is None else IN_FLIGHT_MOST,
            check_removal=self.claim.check_removal,
        )

    async def _send(self, sender: PartSender, part: StoredPart) -> None:
        self._in_flight.add(part.name)
        try:
            await self._records.copying(self.job.id, part.part.index, part.name, self._late)
            self.known.know_part(part.name, stored=False)
            await sender.send(part, lambda: None)
        finally:
            self._in_flight.discard(part.name)
        await self._know_stored(part)

    async def _know_stored(self, part: StoredPart) -> None:
        if not self.known.parts[part.name]:
            self.known.know_part(part.name, stored=True)
            await self._records.copied(self.job.id, part.part.index, self._late)


async def _is_there(store: Store, part: StoredPart, stored: Stored) -> bool:
    """Prove a part that was found; false if it has disappeared since. Raises `StoreError` for another object.

    An earlier attempt of the job that does not know yet that it lost the claim may remove what it has just copied.
    """
    try:
        await require_same(store, part, stored)
    except StoreError:
        if await store.stat(part.name, read=False) is not None:
            raise
        return False
    return True
