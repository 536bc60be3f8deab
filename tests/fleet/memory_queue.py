"""A message queue in memory: it keeps visibility by the event loop's clock, which a test may put forward."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime

from amistream.aws.sqs import Delivery, RedrivePolicy
from amistream.errors import AmistreamError, StaleHandleError, StoreError
from support.loop import clock as loop_clock

PATIENCE_S = 60.0


@dataclass
class Waiting:
    """A message in the queue."""

    message_id: str
    body: str
    sent_at: float
    attributes: Mapping[str, str] = field(default_factory=dict)
    visible_at: float = 0.0
    receives: int = 0
    handle: str = ""


@dataclass
class MemoryQueue:
    """`faults` are raised by the named call, as long as they are there; a call in `held` waits for its event."""

    policy: RedrivePolicy = field(default_factory=RedrivePolicy)
    waiting: dict[str, Waiting] = field(default_factory=dict)
    faults: dict[str, AmistreamError] = field(default_factory=dict)
    held: dict[str, asyncio.Event] = field(default_factory=dict)
    takes_stale: bool = False
    """Take the handle of an earlier receive, as some endpoints do."""
    calls: Counter[str] = field(default_factory=Counter)
    asked: list[tuple[str, object]] = field(default_factory=list)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _numbers: int = 0

    def put(self, body: str, *, sent_at: float = 1_800_000_000.0) -> str:
        """Send a message; returns its id."""
        self._numbers += 1
        message_id = f"m{self._numbers}"
        self.waiting[message_id] = Waiting(message_id, body, sent_at)
        self._wake()
        return message_id

    def hand_out_again(self, message_id: str) -> None:
        """Let the next receive have a message that is held, as a queue does now and then."""
        self.waiting[message_id].visible_at = self._now()
        self._wake()

    async def receive(self, most: int, wait_s: int, visibility_s: int) -> list[Delivery]:
        await self._ask("receive", most)
        with suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                while not (found := [each for each in self.waiting.values() if each.visible_at <= self._now()][:most]):
                    self._changed.clear()
                    await self._changed.wait()
                return [self._hand_out(each, visibility_s) for each in found]
        return []

    async def extend(self, handles: Sequence[str], seconds: int) -> dict[str, StoreError]:
        await self._ask("give_back" if seconds == 0 else "extend", seconds)
        failed: dict[str, StoreError] = {}
        for handle in handles:
            if (found := self._find(handle)) is None:
                failed[handle] = StaleHandleError("aws.ReceiptHandleIsInvalid", "cannot hold it: it is not ours")
            else:
                self._hide(found, seconds)
        return failed

    async def delete(self, handles: Sequence[str]) -> dict[str, StoreError]:
        await self._ask("delete", len(handles))
        for handle in handles:
            if (found := self._find(handle)) is not None:
                del self.waiting[found.message_id]
        return {}

    async def send(self, bodies: Sequence[str], attributes: Mapping[str, str] | None = None) -> dict[int, StoreError]:
        await self._ask("send", len(bodies))
        for body in bodies:
            self.waiting[self.put(body)].attributes = dict(attributes or {})
        return {}

    async def redrive_policy(self) -> RedrivePolicy:
        await self._ask("policy", 0)
        return self.policy

    async def wait_call(self, call: str, count: int = 1) -> None:
        """Wait until so many such calls were made."""
        await self.wait_until(lambda: self.calls[call] >= count)

    async def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait until a condition holds, which may change with each call and with each turn of the loop."""
        async with asyncio.timeout(PATIENCE_S):
            while not condition():  # noqa: ASYNC110 - anything may change it, also a thread
                await asyncio.sleep(0)

    def _hand_out(self, found: Waiting, visibility_s: float) -> Delivery:
        found.receives += 1
        found.handle = f"{found.message_id}/{found.receives}"
        self._hide(found, visibility_s)
        sent_at = datetime.fromtimestamp(found.sent_at, UTC)
        return Delivery(found.message_id, found.handle, found.body, found.receives, sent_at, found.attributes)

    def _hide(self, found: Waiting, seconds: float) -> None:
        found.visible_at = self._now() + seconds
        asyncio.get_running_loop().call_at(found.visible_at, self._wake)
        if not seconds:
            found.handle = ""

    def _find(self, handle: str) -> Waiting | None:
        """The message that this handle holds still."""
        if self.takes_stale:
            return self.waiting.get(handle.partition("/")[0])
        now = self._now()
        return next((each for each in self.waiting.values() if each.handle == handle and each.visible_at > now), None)

    async def _ask(self, call: str, what: object) -> None:
        self.calls[call] += 1
        self.asked.append((call, what))
        if call in self.held:
            await self.held[call].wait()
        if call in self.faults:
            raise self.faults[call]

    def _wake(self) -> None:
        self._changed.set()

    def _now(self) -> float:
        return asyncio.get_running_loop().time()


def put_forward(seconds: float) -> None:
    """Let so much time pass at once."""
    loop_clock(0).loop.put_forward(seconds)
