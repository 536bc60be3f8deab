"""The claims of a named bundle job's run: one at each destination.

manifest         claim of the job's         the run
none             none                       claims the place, which must be free
none             an earlier attempt's       takes it over, removes what that stored, begins anew
its own          its own                    goes on, as after any restart
another run's    any, or none               is done already, if the bundle is whole
another run's    taken over                 removes it with its parts if it is torn, and begins anew
another job's    any                        is refused
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import structlog

from amistream.aws import buckets
from amistream.bundles.place import Place
from amistream.checks.destination import Destination
from amistream.checks.free_place import leftover_error
from amistream.errors import AmistreamError, FencedError, StoreError, TakenError
from amistream.jobs.claim import Claim
from amistream.jobs.claims import Claims
from amistream.jobs.finished import Found, find_manifest, finished_place, finished_result, refuse_registered
from amistream.jobs.job import Job
from amistream.jobs.records import JournalEntry
from amistream.location import DirectoryLocation, S3Location
from amistream.values import manifest_name

log = structlog.get_logger()


class NamedClaims(Claims):
    """`entry` is the job's record: destinations that an earlier attempt has finished are entered in it as done."""

    def __init__(self, job: Job, entry: JournalEntry, addresses: Sequence[Destination]) -> None:
        self._job = job
        self._entry = entry
        self._addresses = addresses
        self._claims: dict[int, Claim] = {}
        self._places: dict[int, Place] = {}

    async def begin(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            await self._begin(number)

    async def fence(self, number: int) -> None:
        await (await self._claim(number)).check()

    async def is_ours(self, number: int) -> bool:
        return await (await self._claim(number)).is_ours()

    async def check_removal(self, number: int) -> None:
        await (await self._claim(number)).check_removal()

    async def leave(self) -> None:
        for number, claim in self._claims.items():
            if number not in self._entry.done:
                await claim.release()
                await claim.store.close()

    async def release_done(self, number: int) -> None:
        try:
            claim = await self._claim(number)
            await claim.sweep_uploads()
            await claim.release()
        except StoreError as error:
            self._job.note(f"the claim stays: {error.message}")

    @property
    def took_over(self) -> bool:
        return any(claim.took_over for number, claim in self._claims.items() if number not in self._entry.done)

    async def fencing(self, error: AmistreamError) -> FencedError | None:
        for number, claim in self._claims.items():
            if number in self._entry.done or not claim.is_held:
                continue
            try:
                if await claim.is_lost():
                    return claim.fenced("another attempt has claimed it since")
                if isinstance(error, TakenError) and await claim.has_strays():
                    return claim.fenced("an earlier attempt has stored something since this one began")
            except StoreError as unknown:
                log.warning("claim.unknown", reason=unknown.message)
        return None

    async def _begin(self, number: int) -> None:
        claim, place = await self._claim(number), self._places[number]
        if await self._is_done(number, await self._find(number)):
            return
        await claim.store.open()
        await claim.take()
        # An earlier attempt may have put its manifest before the claim was taken over; from now on it does not.
        found = await self._find(number)
        if await self._is_done(number, found):
            return
        if found is not None:
            name = manifest_name(claim.prefix)
            await refuse_registered(place, name, self._addresses[number])
            await claim.store.delete(name)
        if claim.took_over:
            self._job.note(
                f"an earlier attempt on another host left something in {claim.store.location}: it begins anew"
            )
        left = await claim.sweep()
        if left and self._entry.bundling is None:
            raise leftover_error(claim.store, left, _command(self._addresses[number]))

    async def _find(self, number: int) -> Found | None:
        is_own = number in self._entry.manifests
        return await find_manifest(self._claims[number], self._places[number], is_own=is_own)

    async def _is_done(self, number: int, found: Found | None) -> bool:
        """Take over the result of an earlier attempt that has finished the bundle."""
        if found is None or found.bundle is None:
            return False
        address, destination = self._addresses[number], self._job.request.destinations[number]
        self._entry.done[number] = await finished_place(found.bundle, address, self._job, destination)
        self.result = finished_result(found.bundle.manifest)
        self._job.note(f"{found.bundle.address} is there already, made by an earlier attempt of this job")
        try:
            await self._claims[number].release(whole_job=True)
        except StoreError as error:
            self._job.note(f"the claim stays: {error.message}")
        return True

    async def _claim(self, number: int) -> Claim:
        if number not in self._claims:
            address = self._addresses[number]
            region = await self._region(address)
            store = await address.store(region)
            self._places[number] = Place(store=store, location=address.location, region=region)
            self._claims[number] = Claim(store, address.prefix, self._job, remove=_command(address))
        return self._claims[number]

    async def _region(self, address: Destination) -> str:
        match address.location:
            case DirectoryLocation():
                return ""
            case S3Location(bucket):
                return await buckets.bucket_region(
                    address.aws,
                    bucket,
                    region=address.request.region or "",
                    endpoint_url=address.endpoint_url,
                    timeout_s=address.settings.stall_timeout_s,
                )


def _command(address: Destination) -> str:
    return "rm" if isinstance(address.location, DirectoryLocation) else "aws s3 rm"
