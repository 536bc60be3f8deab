"""Sending to and looking through queues, with answers that no endpoint gives by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import cast

import pytest

from amistream.aws.sqs import Delivery, Sqs
from amistream.cli.fleet.reader import QueueReader
from amistream.cli.fleet.sending import send_all
from amistream.errors import JobError, StoreError

NOON = datetime(2026, 11, 29, 12, tzinfo=UTC)
JOBS = [(f"job-{number}", f"text-{number}") for number in range(25)]
REFUSED = StoreError(
    "aws.AccessDenied", "cannot send to the queue work: access is denied", hint="allow sqs:SendMessage"
)


@dataclass
class FakeQueue:
    """A queue in memory. It hands out what is `there`, and refuses to take `bad` texts."""

    there: list[str] = field(default_factory=list)
    bad: frozenset[str] = frozenset()
    fails: StoreError | None = None
    sent: list[str] = field(default_factory=list)
    given_back: list[str] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    kept: frozenset[str] = frozenset()
    """Handles that cannot be deleted."""
    held_up: asyncio.Event | None = None
    """Event that polls wait for."""
    polled: asyncio.Event = field(default_factory=asyncio.Event)
    """A poll waits for it."""

    async def send(self, bodies: Sequence[str], attributes: Mapping[str, str] | None = None) -> dict[int, StoreError]:
        assert attributes is None
        if self.fails is not None:
            raise self.fails
        self.sent += [body for body in bodies if body not in self.bad]
        return {index: REFUSED for index, body in enumerate(bodies) if body in self.bad}

    async def receive(self, most: int, _wait_s: int, _visibility_s: int) -> list[Delivery]:
        if self.held_up is not None:
            self.polled.set()
            await self.held_up.wait()
        found, self.there = self.there[:most], self.there[most:]
        return [Delivery(f"id-{each}", f"handle-{each}", each, 1, NOON, {}) for each in found]

    async def extend(self, handles: Sequence[str], seconds: int) -> dict[str, StoreError]:
        assert seconds == 0
        if self.fails is not None:
            raise self.fails
        self.given_back += handles
        return {}

    async def delete(self, handles: Sequence[str]) -> dict[str, StoreError]:
        self.deleted += [handle for handle in handles if handle not in self.kept]
        return {handle: REFUSED for handle in handles if handle in self.kept}


def as_sqs(queue: FakeQueue) -> Sqs:
    return cast("Sqs", queue)


async def test_all_are_sent() -> None:
    """Every message is sent once, and none without any."""
    queue = FakeQueue()
    await send_all(as_sqs(queue), JOBS)
    assert sorted(queue.sent) == sorted(text for _, text in JOBS)
    await send_all(as_sqs(queue), [])
    assert len(queue.sent) == len(JOBS)


async def test_some_are_not_sent() -> None:
    """Messages that are refused keep no other back; they are counted, one of them is named, and the way on is told."""
    queue = FakeQueue(bad=frozenset({"text-3", "text-17"}))
    with pytest.raises(JobError) as caught:
        await send_all(as_sqs(queue), JOBS)
    assert len(queue.sent) == 23
    assert caught.value.code == "aws.AccessDenied"
    assert "cannot send 2 of 25 messages, that of job-3 among them" in caught.value.message
    assert "send the same lines again" in caught.value.hint


async def test_a_queue_that_takes_nothing() -> None:
    """A queue that refuses the first batch is asked for no other, and its error is shown as it is."""
    queue = FakeQueue(fails=REFUSED)
    with pytest.raises(StoreError) as caught:
        await send_all(as_sqs(queue), JOBS)
    assert caught.value is REFUSED


async def test_each_message_is_given_once_and_goes_back() -> None:
    """A message that comes again while it is read is not given again, and all are given back at the end."""
    queue = FakeQueue(there=[str(number) for number in range(12)])
    reader = QueueReader(as_sqs(queue))
    async with reader.reading():
        found = await reader.read_all()
        assert sorted(int(each.body) for each in found) == [*range(12)]
        queue.there = ["3", "12"]
        assert [each.body for each in await reader.read_some(0)] == ["12"]
    assert sorted(queue.given_back) == sorted(f"handle-{number}" for number in range(13))


async def test_what_was_taken_does_not_go_back() -> None:
    """Messages that were deleted are not given back; one that cannot be deleted is an error, and is."""
    queue = FakeQueue(there=["a", "b", "c"], kept=frozenset({"handle-b"}))
    reader = QueueReader(as_sqs(queue))
    async with reader.reading():
        found = await reader.read_all()
        with pytest.raises(StoreError, match="access is denied"):
            await reader.take([each for each in found if each.body != "c"])
    assert (queue.deleted, sorted(queue.given_back)) == (["handle-a"], ["handle-b", "handle-c"])


async def test_giving_back_fails_silently() -> None:
    """Messages that cannot be given back come back by themselves: that is no error of the command."""
    queue = FakeQueue(there=["a"])
    reader = QueueReader(as_sqs(queue))
    async with reader.reading():
        await reader.read_all()
        queue.fails = REFUSED
    assert queue.given_back == []


async def test_an_interrupt_gives_back() -> None:
    """A reader that is cancelled lets its poll end, and gives back what came with it, too."""
    queue = FakeQueue(there=["a"])
    reader = QueueReader(as_sqs(queue))
    may_end = asyncio.Event()

    async def read() -> None:
        async with reader.reading():
            await reader.read_all()
            queue.there, queue.held_up = ["b"], may_end
            await reader.read_some(20)

    task = asyncio.create_task(read())
    await queue.polled.wait()
    task.cancel()
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert queue.given_back == ["handle-a", "handle-b"]
