"""The contract of a lease: a job that a queue of many hosts lends to this one, for a time.

The queue gives a message to one host at a time, mostly, and to the next one when the lease ends. Several hosts may so
believe that a job is theirs. Therefore a lease is confirmed before each commit point: before anything is made that
another host cannot take back, and before anything is removed. A job whose lease is lost leaves all as it is: the next
host finishes it or removes what is there. A removal without a lease, by hand or after a restart, goes by the
claim alone (`claim`).
"""

from __future__ import annotations

from typing import Protocol


class Lease(Protocol):
    """The right to run one job until it is lost. Of two leases of a job the one with the higher `rank` is the later."""

    @property
    def name(self) -> str:
        """The job's name in the message: its identity on every host."""

    @property
    def attempt(self) -> int:
        """The number of times that the message was received, from 1 on."""

    @property
    def holder(self) -> str:
        """This host and process, for people and for comparison."""

    @property
    def sent_at(self) -> float:
        """When the message was sent, in seconds since 1970 by the queue's clock: a message sent again counts anew."""

    def check(self) -> None:
        """Raise `FencedError` if the lease is over by this host's clock. Asks nobody: called before each request."""

    async def confirm(self) -> None:
        """Extend the lease at the queue now. Raises `FencedError` if that cannot be done.

        A lease that was lost once is never confirmed again.
        """


Rank = tuple[float, int]


def rank_of(lease: Lease) -> Rank:
    """The place of a lease among all leases of its job: later ones are higher."""
    return lease.sent_at, lease.attempt
