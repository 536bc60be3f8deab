"""One destination's way through a run: from its stored parts to the manifest and the AMI.

A lane's failure stays in it: other lanes continue. Its manifest and AMI are in its `undo` until the bundle is whole.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from amistream.checks.destination import OpenDestination
from amistream.errors import AmistreamError, LostError, RegisterError, StoreError
from amistream.events import ErrorBody, PlaceResult
from amistream.flow.cancel import finish_despite_cancel
from amistream.flow.undo import Undo
from amistream.jobs.journal import Journal
from amistream.jobs.proof import check_object, check_stored, prove
from amistream.jobs.records import SealedPart
from amistream.ports.store import sha1_of, whole_checksum
from amistream.settings import Settings
from amistream.stages.register import RegistrationAttempt
from amistream.stores.several import Member
from amistream.values import manifest_name, part_name


@dataclass(kw_only=True, eq=False)
class Lane:
    """`address` is the destination as the request has it; `manifest` the bytes to be put there, once they are known."""

    number: int
    address: str
    prefix: str
    destination: OpenDestination
    member: Member
    manifest: bytes | None = None
    was_committed: bool = False
    """An earlier run was about to put the manifest, and may have registered the AMI."""
    registered_none: bool = False
    """Earlier runs are known not to have registered an AMI, so an existing one belongs to someone else."""
    undo: Undo = field(default_factory=Undo)
    error: AmistreamError | None = None
    result: PlaceResult | None = None
    attempt: RegistrationAttempt | None = None

    @property
    def own_image(self) -> str:
        """The AMI that this run registered, or found to be an earlier run's; '' for none."""
        return self.attempt.image_id if self.attempt is not None and self.attempt.is_own else ""

    async def prove(self, sealed: Sequence[SealedPart]) -> set[int]:
        """The numbers of the parts that are proved to be stored here."""
        stored = {part.digest.index for part in await prove(self.destination.store, self.prefix, sealed) if part.stored}
        self.member.has = {part_name(self.prefix, number) for number in stored}
        return stored

    def forget_earlier(self) -> None:
        """Forget what earlier runs stored here: it is removed."""
        self.member.has.clear()
        self.manifest, self.was_committed, self.registered_none = None, False, False

    async def write_manifest(self, write: Callable[[], bytes]) -> None:
        """Take over the manifest that `write` makes on a thread, or the failure of the lane's store.

        A manifest that an earlier run put, or was about to put, has the same key and parts, and stays.
        """
        self.error = self.member.error
        if self.error is None and self.manifest is None:
            self.manifest = await asyncio.to_thread(write)

    async def publish(
        self,
        job_id: str,
        journal: Journal,
        parts: Sequence[SealedPart],
        settings: Settings,
        registering: Callable[[], Awaitable[None]],
    ) -> None:
        """Put the manifest once every part is proved to be stored, and register. A failure becomes `error`.

        `registering` is awaited before the registration.
        """
        assert self.manifest is not None  # noqa: S101 - for the type checker; the caller has checked
        store, name = self.destination.store, manifest_name(self.prefix)
        sha1 = sha1_of(self.manifest)
        try:
            await check_stored(store, self.prefix, parts)
            await journal.commit(job_id, self.number, self.manifest)
            own = (len(self.manifest), whole_checksum(sha1))
            self.undo.push(f"{store.location}/{name}", partial(store.remove, name, *own))
            await store.commit(name, self.manifest, sha1)
            await check_object(store, name, *own)
            image_id = await self._register(job_id, journal, settings, registering)
        except (StoreError, RegisterError) as error:
            self.error = error
            if isinstance(error, LostError):
                await journal.reopen(job_id)
            return
        registration = self.destination.registration
        self.result = PlaceResult(
            destination=self.address,
            manifest=f"{store.location}/{name}",
            region=self.destination.region or None,
            image_id=image_id,
            image_name=registration.name if registration else None,
        )
        # Not to be cut short: a bundle that is entered as done must not be undone.
        await finish_despite_cancel(self._settle(journal, job_id, self.result))

    async def _settle(self, journal: Journal, job_id: str, result: PlaceResult) -> None:
        await journal.done(job_id, self.number, result)
        self.undo.forget()
        self.member.settled = True

    def failure(self) -> PlaceResult:
        """The result of a lane that failed."""
        assert self.error is not None  # noqa: S101 - for the type checker; the caller has checked
        return PlaceResult(destination=self.address, manifest="", error=ErrorBody(**self.error.as_dict()))

    async def _register(
        self, job_id: str, journal: Journal, settings: Settings, registering: Callable[[], Awaitable[None]]
    ) -> str | None:
        ec2, registration, retry = self.destination.ec2, self.destination.registration, self.destination.retry
        if ec2 is None or registration is None:
            return None
        await registering()
        self.attempt = RegistrationAttempt(
            registry=ec2,
            registration=registration,
            retry=retry,
            record=partial(journal.registering, job_id, self.number),
            look_first=self.was_committed,
            registered_none=self.registered_none,
        )
        return await self.attempt.run(self.undo, timeout_s=settings.register_timeout_s, poll_s=settings.register_poll_s)
