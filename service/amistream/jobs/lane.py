"""One destination's way through a run: from its stored parts to the manifest and the AMI.

A lane's failure stays in it: other lanes continue.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from amistream.checks.destination import OpenDestination
from amistream.errors import LostError, RegisterError, StoreError
from amistream.events import PlaceResult
from amistream.flow.cancel import finish_despite_cancel
from amistream.jobs.claims import Claims
from amistream.jobs.journal import Journal
from amistream.jobs.proof import check_object, check_stored, prove
from amistream.jobs.records import JournalEntry, SealedPart
from amistream.ports.store import sha1_of, whole_checksum
from amistream.ports.unanswered import AMI
from amistream.settings import Settings
from amistream.stages.register import RegistrationAttempt
from amistream.stores.several import Member
from amistream.values import manifest_name, part_name


@dataclass(kw_only=True, eq=False)
class Lane(Member):
    """`address` is the destination as the request has it; `manifest` the bytes to be put there, once they are known.

    `entry` is the job's record: the lane writes its manifest, AMI and result into it before they are journaled.
    """

    number: int
    address: str
    prefix: str
    destination: OpenDestination
    entry: JournalEntry
    journal: Journal
    enter_late: Callable[[], Awaitable[None]]
    """Enters the requests of all lanes that are not answered."""
    claims: Claims
    manifest: bytes | None = None
    was_committed: bool = False
    """An earlier run was about to put the manifest, and may have registered the AMI."""

    async def prove(self, sealed: Sequence[SealedPart]) -> set[int]:
        """The numbers of the parts that are proved to be stored here."""
        stored = {part.digest.index for part in await prove(self.store, self.prefix, sealed) if part.stored}
        self.has = {part_name(self.prefix, number) for number in stored}
        return stored

    def forget_earlier(self) -> None:
        """Forget what earlier runs stored here: it is removed."""
        self.has.clear()
        self.manifest, self.was_committed = None, False

    async def write_manifest(self, write: Callable[[], bytes]) -> None:
        """Take over the manifest that `write` makes on a thread, unless the lane failed.

        A manifest that an earlier run put, or was about to put, has the same key and parts, and stays.
        """
        if self.error is None and self.manifest is None:
            self.manifest = await asyncio.to_thread(write)

    async def publish(
        self, parts: Sequence[SealedPart], settings: Settings, registering: Callable[[], Awaitable[None]]
    ) -> None:
        """Put the manifest once every part is proved to be stored, and register. A failure becomes `error`.

        `registering` is awaited before the registration. Raises `FencedError` once another host may have the job.
        """
        assert self.manifest is not None  # noqa: S101 - for the type checker; the caller has checked
        store, name, job_id = self.store, manifest_name(self.prefix), self.entry.view.id
        sha1 = sha1_of(self.manifest)
        try:
            await check_stored(store, self.prefix, parts)
            if self.number not in self.entry.manifests:
                self.entry.images[self.number] = ""
            self.entry.manifests[self.number] = self.manifest
            await self.journal.commit(job_id, self.number, self.manifest)
            await self.claims.fence(self.number)
            await store.commit(name, self.manifest, sha1)
            await check_object(store, name, len(self.manifest), whole_checksum(sha1))
            # Of a manifest that came too late nothing is registered, and nothing said.
            await self.claims.fence(self.number)
            image_id = await self._register(settings, registering)
        except (StoreError, RegisterError) as error:
            self.error = error
            if isinstance(error, LostError):
                await self.journal.reopen(job_id)
            return
        registration = self.destination.registration
        result = PlaceResult(
            destination=self.address,
            manifest=f"{store.location}/{name}",
            region=self.destination.region or None,
            image_id=image_id,
            image_name=registration.name if registration else None,
        )
        # Not to be cut short: a bundle that is entered as done must not be undone.
        await finish_despite_cancel(self._settle(result))

    async def _settle(self, result: PlaceResult) -> None:
        await self.journal.done(self.entry.view.id, self.number, result)
        self.entry.done[self.number] = result
        await self.claims.release_done(self.number)

    async def _register(self, settings: Settings, registering: Callable[[], Awaitable[None]]) -> str | None:
        ec2, registration = self.destination.ec2, self.destination.registration
        if ec2 is None or registration is None:
            return None
        await registering()
        attempt = RegistrationAttempt(
            registry=ec2,
            registration=registration,
            retry=self.destination.retry,
            record=self._record,
            own=self.entry.images.get(self.number),
            look_first=self.was_committed,
        )
        return await attempt.run(timeout_s=settings.register_timeout_s, poll_s=settings.register_poll_s)

    async def _record(self, image_id: str | None) -> None:
        self.store.unanswered.forget(AMI)
        if image_id is None:
            self.entry.images.pop(self.number, None)
            self.store.unanswered.given_up(AMI)
            await self.enter_late()
        else:
            self.entry.images[self.number] = image_id
        await self.journal.registering(self.entry.view.id, self.number, image_id)
