"""The lanes of one run: each destination goes its own way, and one that fails does not stop the others.

With `all_or_none` the first failure stops all. A bundle that is whole stays, whatever happens to the others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from contextlib import AsyncExitStack, suppress

from amistream.checks.destination import Destination, OpenDestination
from amistream.errors import StoreError, first_cause
from amistream.events import JobResult, PlaceResult
from amistream.jobs.job import Job
from amistream.jobs.journal import Journal
from amistream.jobs.lane import Lane
from amistream.jobs.records import JournalEntry, SealedPart
from amistream.stores.several import Member, SeveralStores


class Lanes:
    """A lane for each destination that an earlier run has not finished, once it is opened."""

    def __init__(self, job: Job, entry: JournalEntry, addresses: Sequence[Destination], journal: Journal) -> None:
        """`entry` is the journal's record of earlier runs."""
        self._job = job
        self._entry = entry
        self._addresses = addresses
        self._journal = journal
        self._lanes: list[Lane] = []

    def __iter__(self) -> Iterator[Lane]:
        return iter(self._lanes)

    @property
    def missing(self) -> list[int]:
        """The numbers of the destinations that no earlier run has finished."""
        return [number for number in range(len(self._addresses)) if number not in self._entry.done]

    @property
    def finished(self) -> list[PlaceResult]:
        """The destinations that have their bundle, registered where that was asked for: `undo` does not touch them."""
        now = [lane.result for lane in self._lanes if lane.result is not None and lane.member.settled]
        return [*self._entry.done.values(), *now]

    @property
    def is_whole(self) -> bool:
        return len(self.finished) == len(self._addresses)

    @property
    def store(self) -> SeveralStores:
        """All the lanes' stores as one."""
        all_or_none = len(self._addresses) == 1 or self._job.request.all_or_none
        return SeveralStores([lane.member for lane in self._lanes], all_or_none=all_or_none)

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
            member=Member(store=destination.store),
            manifest=self._entry.manifests.get(number),
            was_committed=number in self._entry.manifests,
            registered_none=self._entry.images.get(number) == "",
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
        try:
            async with asyncio.TaskGroup() as group:
                for lane in self._lanes:
                    if lane.error is None:
                        publishing = lane.publish(self._job.id, self._journal, parts, settings, registering)
                        group.create_task(publishing, name=f"publish {lane.number}")
        except BaseExceptionGroup as errors:
            raise first_cause(errors) from None

    async def undo(self) -> list[str]:
        """Remove the manifests and AMIs that this run did not finish; returns those that could not be removed."""
        return [thing for lane in self._lanes for thing in await lane.undo.run()]

    @property
    def own_images(self) -> Collection[str]:
        """The AMIs that this run has registered, or has found to be this job's."""
        return {lane.own_image for lane in self._lanes}

    def start_over(self) -> None:
        """Forget what earlier runs stored: it is removed."""
        for lane in self._lanes:
            lane.forget_earlier()

    async def leave(self) -> None:
        """Close the stores after `undo`: a directory that the run made is removed if it is empty."""
        for lane in self._lanes:
            with suppress(StoreError):
                await lane.destination.store.close()

    def with_places(self, result: JobResult) -> JobResult:
        """`result` with the end of each destination; its own manifest and AMI are the first finished one's."""
        done = {**self._entry.done, **{lane.number: lane.result for lane in self._lanes if lane.result is not None}}
        places = {**done, **{lane.number: lane.failure() for lane in self._failed}}
        result = result.model_copy(update={"places": tuple(places[number] for number in sorted(places))})
        if done:
            first = done[min(done)].model_dump(include={"manifest", "image_id", "image_name", "region"})
            result = result.model_copy(update=first)
        return result

    def check(self) -> None:
        """Raise the error of the first lane that failed; with several lanes it says which and how many failed."""
        if not self._failed:
            return
        lane, total = self._failed[0], len(self._addresses)
        error = lane.error
        assert error is not None  # noqa: S101 - for the type checker; it failed
        if total == 1:
            raise error
        failed = len(self._failed)
        done = f"cannot finish {failed} of {total} destinations ({total - failed} done)"
        raise error.reworded(message=f"{done}: {lane.address}: {error.message}")

    @property
    def _failed(self) -> list[Lane]:
        return [lane for lane in self._lanes if lane.error is not None]
