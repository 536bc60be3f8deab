"""The lanes of one run: each destination goes its own way, and one that fails does not stop the others.

With `all_or_none` the first failure stops all. A bundle that is whole stays, whatever happens to the others.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack

from amistream.checks.destination import Destination, OpenDestination
from amistream.events import BundleResult, ErrorBody, PlaceResult
from amistream.flow.gather import task_group
from amistream.jobs.claims import Claims
from amistream.jobs.job import Job
from amistream.jobs.journal import Journal
from amistream.jobs.lane import Lane
from amistream.jobs.records import JournalEntry, SealedPart
from amistream.jobs.removal import leave
from amistream.stores.several import SeveralStores


class Lanes:
    """A lane for each destination that an earlier run has not finished, once it is opened."""

    def __init__(
        self, job: Job, entry: JournalEntry, addresses: Sequence[Destination], journal: Journal, claims: Claims
    ) -> None:
        """`entry` is the job's record: the lanes keep it up to date."""
        self._job = job
        self._entry = entry
        self._addresses = addresses
        self._journal = journal
        self._claims = claims
        self._lanes: list[Lane] = []

    def __iter__(self) -> Iterator[Lane]:
        return iter(self._lanes)

    @property
    def missing(self) -> list[int]:
        """The numbers of the destinations that no earlier run has finished."""
        return [number for number in range(len(self._addresses)) if number not in self._entry.done]

    @property
    def store(self) -> SeveralStores:
        """All the lanes' stores as one."""
        all_or_none = len(self._addresses) == 1 or self._addresses[0].request.all_or_none
        return SeveralStores(self._lanes, all_or_none=all_or_none)

    @property
    def limit_upload(self) -> int:
        """Bytes per second that may be sent to all of them together; 0: no limit."""
        limits = [self._addresses[lane.number].limit_upload for lane in self._lanes]
        return sum(limit or 0 for limit in limits) if all(limits) else 0

    def open(self, number: int, destination: OpenDestination, stack: AsyncExitStack) -> None:
        """Add the lane of a destination, whose store `stack` closes."""
        stack.push_async_callback(destination.store.close)
        lane = Lane(
            number=number,
            address=self._job.request.destinations[number],
            prefix=self._addresses[number].prefix,
            destination=destination,
            store=destination.store,
            entry=self._entry,
            journal=self._journal,
            enter_late=self.enter_late,
            claims=self._claims,
            manifest=self._entry.manifests.get(number),
            was_committed=number in self._entry.manifests,
        )
        self._lanes.append(lane)

    async def prove(self, sealed: Sequence[SealedPart]) -> list[SealedPart]:
        """The parts that an earlier run sealed, each `stored` only if every destination has it."""
        everywhere = {part.digest.index for part in sealed}
        for lane in self._lanes:
            everywhere &= await lane.prove(sealed)
        return [part.model_copy(update={"stored": part.digest.index in everywhere}) for part in sealed]

    async def publish(self, parts: Sequence[SealedPart], registering: Callable[[], Awaitable[None]]) -> None:
        """Put the manifests and register, in all lanes at once. Raises the first cause once all have ended."""
        settings = self._addresses[0].settings
        async with task_group() as group:
            for lane in self._lanes:
                if lane.error is None:
                    group.create_task(lane.publish(parts, settings, registering), name=f"publish {lane.number}")

    @property
    def opened(self) -> Mapping[int, OpenDestination]:
        """The lanes' destinations, by number."""
        return {lane.number: lane.destination for lane in self._lanes}

    async def enter_late(self) -> None:
        """Record what may still appear anywhere, although nobody waits for it any more."""
        # A finished destination has what it is to have: a late request changes nothing there.
        late = {number: found for number in self.missing if (found := self._addresses[number].unanswered.late)}
        # Also if nothing has changed: the journal may have failed the last time.
        if late or self._entry.late:
            self._entry.late.clear()
            self._entry.late.update(late)
            await self._journal.late(self._job.id, late)

    def start_over(self) -> None:
        """Forget what earlier runs stored: it is removed."""
        self._entry.manifests.clear()
        self._entry.images.clear()
        for lane in self._lanes:
            lane.forget_earlier()

    async def leave(self) -> None:
        """Close the stores after a removal: a directory that the run made is removed if it is empty."""
        for lane in self._lanes:
            await leave(lane.store, self._job.note)

    def with_places(self, result: BundleResult) -> BundleResult:
        """`result` with the end of each destination; its own manifest and AMI are the first finished one's."""
        done = self._entry.done
        failed = {
            lane.number: PlaceResult(destination=lane.address, manifest="", error=ErrorBody(**lane.error.as_dict()))
            for lane in self._lanes
            if lane.error is not None
        }
        places = {**done, **failed}
        result = result.model_copy(update={"places": tuple(places[number] for number in sorted(places))})
        if done:
            first = done[min(done)].model_dump(include={"manifest", "image_id", "image_name", "region"})
            result = result.model_copy(update=first)
        return result

    def check(self) -> None:
        """Raise the error of the first lane that failed; with several lanes it says which and how many failed."""
        failed = [(lane, lane.error) for lane in self._lanes if lane.error is not None]
        if not failed:
            return
        (lane, error), total = failed[0], len(self._addresses)
        if total == 1:
            raise error
        done = f"cannot finish {len(failed)} of {total} destinations ({total - len(failed)} done)"
        raise error.reworded(message=f"{done}: {lane.address}: {error.message}")
