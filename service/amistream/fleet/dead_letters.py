"""The queue of dead letters, and the number of receives after which a message becomes one.

A message is not deleted as dead before the queue's redrive policy is known: where it may not be looked at, the look is
repeated with each such message, which comes again meanwhile.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from amistream.aws.sqs import RedrivePolicy
from amistream.errors import DeniedError
from amistream.fleet.counts import Counts
from amistream.fleet.lease import QueueLease

log = structlog.get_logger()


class Redrives(Protocol):
    """The part of a queue that is needed here (`aws.sqs.Sqs`)."""

    async def redrive_policy(self) -> RedrivePolicy:
        """The queue of dead letters, and the number of receives after which a message becomes one.

        Raises `AmistreamError`.
        """


@dataclass(slots=True, kw_only=True)
class DeadLetters:
    """`url` is that of the queue of jobs."""

    queue: Redrives
    url: str
    counts: Counts
    policy: RedrivePolicy | None = None
    """None: not known yet."""
    learned: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once `policy` is known, or was asked for in vain."""

    async def learn(self) -> None:
        """Look at the policy for the first time. Raises `AmistreamError`."""
        try:
            self.policy = await self.queue.redrive_policy()
        except DeniedError as error:
            # Jobs can be done without it.
            log.warning("queue.policy_unknown", reason=error.message, hint=error.hint)
        self.learned.set()
        if self.policy is not None and self.policy.dead is None:
            log.warning(
                "queue.no_dead_letters",
                queue=self.url,
                hint="give the queue a RedrivePolicy: jobs that fail for good are else only in their results, and one "
                "that ends the daemon comes again and again",
            )

    def is_last(self, lease: QueueLease) -> bool:
        """The queue hands the message out no more."""
        most = self.policy.most_receives if self.policy is not None else None
        return most is not None and lease.message.attempt >= most

    async def look_again(self) -> None:
        """Look at the policy if the first look was denied. Raises `AmistreamError` as long as this one is, too."""
        if self.policy is None:
            self.policy = await self.queue.redrive_policy()

    async def bury(self, lease: QueueLease, code: str, job_id: str) -> None:
        """Send a copy of the message to the dead letters. The policy is known. Raises `AmistreamError`."""
        assert self.policy is not None  # noqa: S101 - for the type checker; it was looked at
        if self.policy.dead is None:
            hint = "the queue has no queue of dead letters: the message is deleted"
            log.warning("message.dead", code=code, hint=hint)
        else:
            attributes = {
                "code": code,
                "host": lease.holder,
                "job": lease.name,
                "job_id": job_id,
                "attempt": str(lease.attempt),
            }
            for error in (await self.policy.dead.send([lease.message.body], attributes)).values():
                raise error
        self.counts.dead += 1
