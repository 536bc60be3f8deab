"""An account of the EBS endpoint: its snapshots, images, knobs, faults, clock, and the record of its requests."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections import Counter, deque
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from support.ebs.knobs import Bucket, Dice, Fault, Knobs
from support.ebs.rules import Refusal
from support.ebs.snapshots import OWN_KEY, Shelf, Snapshot

if TYPE_CHECKING:
    from support.ebs.images import Image

LONGEST_RECORD = 100_000


@dataclass
class Account:
    """All that one access key sees and does."""

    access_key: str
    directory: Path
    knobs: Knobs = field(default_factory=Knobs)
    faults: list[Fault] = field(default_factory=list)
    images: dict[str, Image] = field(default_factory=dict)
    requests: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=LONGEST_RECORD))
    counts: Counter[str] = field(default_factory=Counter)
    """Requests by operation, from the first on."""
    tokens_since: float = 0.0
    """Block and page tokens given out before are expired."""
    advanced: float = 0.0
    paused: int = 0
    """Requests that wait for `let_go`."""
    in_flight: int = 0
    most_in_flight: int = 0
    """PutSnapshotBlock requests between their head and their answer, at most."""

    def __post_init__(self) -> None:
        self.directory.mkdir(parents=True)
        self.shelf = Shelf(self.directory)
        self.dice = Dice()
        self._gate = asyncio.Event()
        self.buckets: dict[str, Bucket] = {}
        self._stood_still_at = time.time()

    @property
    def id(self) -> str:
        """Twelve digits: those at the end of the access key, if there are."""
        digits = self.access_key[-12:]
        return digits if digits.isdigit() else str(int(sha256(self.access_key.encode()).hexdigest(), 16))[:12]

    @property
    def now(self) -> float:
        return (self._stood_still_at if self.knobs.frozen else time.time()) + self.advanced

    @property
    def own_key(self) -> str:
        key = self.knobs.default_key or OWN_KEY
        return key.format(region=self.knobs.region, account=self.id)

    @property
    def only_discards(self) -> bool:
        """True if nothing befalls a put, so that it can be taken the fast way."""
        knobs = self.knobs
        slow = knobs.puts_per_second, knobs.account_puts_per_second, knobs.unknown_seconds, knobs.unknown_requests
        return knobs.discard and not (self.faults or knobs.failing_share or knobs.latency or any(slow))

    def turn(self, changes: dict[str, Any]) -> None:
        if changes.get("frozen"):
            self._stood_still_at = time.time()
        self.knobs.turn(changes)

    def strike(self, operation: str, snapshot: str, index: int | None) -> Fault | None:
        """Count a request, and return the first fault that is due for it; all that match count it too."""
        self.counts[operation] += 1
        due = [each for each in self.faults if each.strikes(operation, snapshot, index)]
        return due[0] if due else None

    def throttle(self, snapshot: str) -> None:
        """Take a put from the account's and the snapshot's allowance."""
        knobs = self.knobs
        for name, rate, code, reason in (
            ("", knobs.account_puts_per_second, "ThrottlingException", ""),
            (snapshot, knobs.puts_per_second, "RequestThrottledException", "RESOURCE_LEVEL_THROTTLE"),
        ):
            if not rate:
                continue
            burst = knobs.burst or max(rate, 1.0)
            bucket = self.buckets.setdefault(name, Bucket(burst, self.now))
            if not bucket.take(rate, burst, self.now):
                raise Refusal(code, 400, "Rate exceeded", reason)

    def settle(self, snapshot: Snapshot, *, looking: bool = False) -> None:
        """Complete a snapshot whose time has come; a look with DescribeSnapshots brings it nearer."""
        if snapshot.state != "pending" or snapshot.completing is None:
            return
        if snapshot.polls < self.knobs.completion_polls:
            snapshot.polls += looking
        elif self.now - snapshot.completing >= self.knobs.completion_seconds:
            snapshot.finish_completion(self.now)

    async def pause(self) -> None:
        self.paused += 1
        await self._gate.wait()
        self.paused -= 1

    def let_go(self) -> None:
        """Let all requests that are paused go on."""
        self._gate.set()
        self._gate = asyncio.Event()

    def users_of(self, snapshot: str) -> list[str]:
        return [image.id for image in self.images.values() if snapshot in image.snapshots]

    def orphans(self) -> list[str]:
        """Return the snapshots that no image uses: pending, failed or left over."""
        return [each.id for each in self.shelf.snapshots.values() if not self.users_of(each.id)]

    def state(self) -> dict[str, Any]:
        for each in self.shelf.snapshots.values():
            each.age(self.now)
            self.settle(each)
        return {
            "account": self.id,
            "knobs": asdict(self.knobs) | {"secret_key": ""},
            "faults": [asdict(each) for each in self.faults],
            "snapshots": [each.summary() for each in self.shelf.snapshots.values()],
            "images": [each.summary() for each in self.images.values()],
            "orphans": self.orphans(),
            "counts": dict(self.counts),
            "paused": self.paused,
            "in_flight": self.in_flight,
            "most_in_flight": self.most_in_flight,
        }

    def snapshot(self, name: str) -> Snapshot:
        return self.shelf.get(name, self.now)

    def clear(self) -> None:
        self.let_go()
        self.shelf.clear()
        shutil.rmtree(self.directory, ignore_errors=True)
