"""The fate of a message whose job has ended, as a table. Nothing here asks anybody.

    job                                     lease     message
    ======================================  ========  =======================================================
    any                                     lost      left: another host has it, or will
    done                                    held      result, deleted
    interrupted, or cancelled by the stop   held      given back, at once
    of the daemon; parked
    interrupted by its journal              held      given back, later
    failed, and resumable                   held      the same
    refused or failed by what may pass      held      the same
    given back by these lines, but for      held      result, dead letter, deleted
    the last time
    refused or failed for good, cancelled   held      result, dead letter, deleted

The queue counts the receives, not this host: a job that kills its hosts becomes a dead letter by the queue's policy,
without a word. A message that is given back after its last receive would, too; so none is. A drain uses up a receive,
and nobody can give that back: the number should leave room for some.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from amistream.aws.error_table import is_transient
from amistream.events import State

LOST = "lease.lost"
"""The code of a job whose lease or claim is another host's."""
PASSING = frozenset(
    {
        # This host's: another one may do it.
        *("journal.full", "journal.failed", "journal.gone", "state_dir.full", "state_dir.unwritable"),
        *("daemon.full", "daemon.stopping", "memory.small", "xfs.space", "xfs.scratch", "lease.parked"),
        *("aws.credentials", "aws.InvalidAccessKeyId", "aws.InvalidToken", "aws.InvalidClientTokenId"),
        *("aws.UnrecognizedClientException", "aws.SignatureDoesNotMatch", "aws.InvalidSignatureException"),
        *("aws.RequestTimeTooSkewed", "aws.RequestExpired", "aws.AuthFailure", "aws.ca_bundle", "aws.proxy"),
        # For a time.
        *("job.same_destination", "job.kept_there", "job.running_elsewhere", "removal.late", "store.stalled"),
        # Of two messages of one name the later one wins; a part may go when the earlier attempt sees that.
        "store.lost",
        *("register.timeout", "snapshot.timeout", "queue.silent"),
    }
)
"""Codes after which another host, or this one later, may succeed, besides the transient ones of AWS.

The program decides by classes elsewhere. Here it cannot: after a restart the journal has the code alone.
"""


class Fate(Enum):
    """The next step for a message."""

    LEFT = "left"
    DONE = "done"
    DEAD = "dead"
    BACK_NOW = "back now"
    BACK_LATER = "back later"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """The end of a job, with what matters for its message."""

    state: State
    code: str = ""
    resumable: bool = False
    lease_lost: bool = False
    is_parked: bool = False
    is_stopping: bool = False
    """The daemon was asked to stop before the job ended."""
    is_last: bool = False
    """The queue hands the message out no more."""


def fate_of(ending: Ending) -> Fate:
    if ending.lease_lost or ending.code == LOST:
        return Fate.LEFT
    given_back = ending.is_parked or ending.is_stopping
    match ending.state:
        case State.DONE:
            return Fate.DONE
        case _ if ending.is_last:
            return Fate.DEAD
        case State.INTERRUPTED:
            return Fate.BACK_NOW if given_back else Fate.BACK_LATER
        case State.CANCELLED if ending.is_stopping:
            return Fate.BACK_NOW
        case State.REFUSED | State.FAILED if ending.resumable or may_pass(ending.code):
            return Fate.BACK_LATER
    return Fate.DEAD


def may_pass(code: str) -> bool:
    """An error with this code may not come again."""
    return code in PASSING or is_transient(code)
