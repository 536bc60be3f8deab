"""How an account of the EBS endpoint behaves: knobs, which stay turned, and faults, which strike counted requests."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, fields
from typing import Any

from support.ebs.rules import MOST_PENDING

ACTIONS = (
    "error", "error_after", "hang", "hang_after", "pause", "pause_after", "cut", "lose", "time_out", "corrupt",
)  # fmt: skip


@dataclass
class Knobs:
    """The settings that a test may change. Seconds run on the account's clock, which `advance` moves."""

    # Delays of the service.
    unknown_seconds: float = 0.0
    """After StartSnapshot, PutSnapshotBlock answers SNAPSHOT_NOT_FOUND for so long."""
    unknown_requests: int = 0
    """... to so many requests for each snapshot."""
    completion_seconds: float = 0.0
    """After CompleteSnapshot the snapshot stays pending for so long."""
    completion_polls: int = 0
    """... for so many looks with DescribeSnapshots."""
    unlisted_seconds: float = 0.0
    """A completed snapshot cannot be listed or read for so long."""
    unlisted_requests: int = 0
    """... by so many requests."""
    unseen_image_requests: int = 0
    """A new image is not in the answers to so many DescribeImages."""
    pending_image_requests: int = 0
    """A new image that is shown is still pending for so many DescribeImages."""
    wrong_completion: str = "refuse"
    """A wrong count or checksum in CompleteSnapshot: `refuse`, or answer 202 and end in `error`."""

    # Limits.
    puts_per_second: float = 0.0
    """PutSnapshotBlock for each snapshot, 0 for no limit; above it, RequestThrottledException."""
    account_puts_per_second: float = 0.0
    """PutSnapshotBlock of the account; above it, ThrottlingException."""
    burst: float = 0.0
    """Puts that a rested snapshot or account may have at once; 0 for those of a second."""
    pending_limit: int = MOST_PENDING
    page_size: int = 0
    """Most blocks in a page, whatever MaxResults says; 0 for MaxResults."""
    empty_pages: int = 0
    """Empty pages, each with a NextToken, before each page with blocks."""
    block_token_seconds: float = 7 * 24 * 3600.0
    page_token_seconds: float = 3600.0

    # Troubles.
    failing_share: float = 0.0
    """Share of requests that answer InternalServerException instead of being done."""
    failing_operations: list[str] = field(default_factory=list)
    """Operations that `failing_share` strikes; empty for all of `ebs`."""
    failing_seed: int = 0
    latency: dict[str, float] = field(default_factory=dict)
    """Real seconds before an operation is looked at, by its name."""

    # The account.
    secret_key: str = ""
    region: str = "eu-west-1"
    encryption_by_default: bool = False
    default_key: str = ""
    """The ARN of the key that encrypts by default; empty for that of AWS."""

    s3_url: str = ""
    """Requests of S3 are passed on to this endpoint, which checks their signatures."""

    # Clocks.
    frozen: bool = False
    """The account's clock moves by `advance` only."""
    skew: float = 0.0
    """Seconds that the clock for signatures is ahead of this machine's."""

    # Cheapness.
    verify: bool = True
    """Signatures and the SHA-256 of blocks are checked."""
    discard: bool = False
    """Only lengths are checked and no data is kept: the checksums that were sent are believed. For benchmarks."""

    def turn(self, changes: dict[str, Any]) -> None:
        """Set the knobs that are named; raise ValueError for one that does not exist."""
        known = {each.name for each in fields(self)}
        if unknown := set(changes) - known:
            raise ValueError(f"no knob {', '.join(sorted(unknown))}")
        for name, value in changes.items():
            setattr(self, name, value)


@dataclass
class Fault:
    """An action on the `nth` matching request and the `times` - 1 after it (None: on all after it).

    error        answer `code` with `status`, `message` and `reason`; nothing is done
    error_after  do what is asked, and answer the error all the same
    hang         take the request, do nothing, and never answer
    hang_after   do what is asked, and never answer
    pause        take the request, and go on when `let_go` says so, even if the client has gone by then
    pause_after  do what is asked, and answer when `let_go` says so
    cut          end the connection after `after` bytes of the request's body, or of GetSnapshotBlock's answer
    lose         do what is asked, then end the connection instead of answering
    time_out     put the snapshot into `error`, as its Timeout does, before the request is looked at
    corrupt      change one byte of GetSnapshotBlock's answer
    """

    operation: str
    do: str = "error"
    nth: int = 1
    times: int | None = 1
    snapshot: str = ""
    index: int | None = None
    code: str = "InternalServerException"
    status: int = 500
    message: str = "by the test's script"
    reason: str = ""
    after: int = 100 * 1024
    seen: int = 0
    struck: int = 0

    def __post_init__(self) -> None:
        if self.do not in ACTIONS:
            raise ValueError(f"no action {self.do!r}: {', '.join(ACTIONS)}")

    def strikes(self, operation: str, snapshot: str, index: int | None) -> bool:
        """Count a request that matches, and say if the fault is due."""
        if self.operation not in {operation, "*"} or (self.snapshot and self.snapshot != snapshot):
            return False
        if self.index is not None and self.index != index:
            return False
        self.seen += 1
        due = self.seen >= self.nth and (self.times is None or self.seen < self.nth + self.times)
        self.struck += due
        return due


@dataclass
class Bucket:
    """Tokens that come back at a rate, up to a burst."""

    tokens: float
    at: float

    def take(self, rate: float, burst: float, now: float) -> bool:
        self.tokens = min(burst, self.tokens + (now - self.at) * rate)
        self.at = now
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True


class Dice:
    """Decides by a seed which requests fail."""

    def __init__(self) -> None:
        self._seed = 0
        self._random = random.Random(0)

    def falls(self, share: float, seed: int) -> bool:
        if seed != self._seed:
            self._seed, self._random = seed, random.Random(seed)
        return share > 0 and self._random.random() < share
