"""One destination's way through a run: from the parts that are there to the manifest and the image.

A lane's failure stays in it; what it made is in its `undo` until the bundle there is whole.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from amistream.checks.destination import Destination
from amistream.errors import AmistreamError, LostError, RegisterError, StoreError
from amistream.events import ErrorBody, PlaceResult
from amistream.flow.cancel import finish_despite_cancel
from amistream.flow.undo import Undo
from amistream.jobs.journal import Journal
from amistream.jobs.proof import check_object, check_stored
from amistream.jobs.records import SealedPart
from amistream.ports.store import sha1_of, whole_checksum
from amistream.settings import Settings
from amistream.stages.register import RegistrationAttempt
from amistream.stores.several import Member
from amistream.values import manifest_name


@dataclass(kw_only=True, eq=False)
class Lane:
    """`address` is the destination as the request has it; `manifest` what is to be put there, once it is known."""

    number: int
    address: str
    prefix: str
    destination: Destination
    member: Member
    manifest: bytes | None = None
    was_committed: bool = False
    """Whether an earlier run got as far as putting the manifest, and so perhaps registered."""
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

    async def publish(
        self,
        job_id: str,
        journal: Journal,
        parts: Sequence[SealedPart],
        settings: Settings,
        registering: Callable[[], Awaitable[None]],
    ) -> None:
        """Put the manifest once every part is proved to be there, and register. A failure becomes `error`.

        `registering` is awaited before EC2 is asked to.
        """
        assert self.manifest is not None  # noqa: S101 - for the type checker; the caller looked
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
        # Not to be cut: what the journal holds to be whole must not be undone here.
        await finish_despite_cancel(self._settle(journal, job_id, self.result))

    async def _settle(self, journal: Journal, job_id: str, result: PlaceResult) -> None:
        await journal.done(job_id, self.number, result)
        self.undo.forget()
        self.member.settled = True

    def failure(self) -> PlaceResult:
        """What the result says of a lane that failed."""
        assert self.error is not None  # noqa: S101 - for the type checker; the caller looked
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
