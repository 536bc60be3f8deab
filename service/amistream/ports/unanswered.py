"""Counts the requests that were given up without an answer: each may still make its object for a while.

A request is counted, not a name: a repeat that is answered says nothing about the attempt before it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime

LIFE_S = 900.0
"""Seconds until such a request can do nothing any more: 15 minutes after it was signed it is refused. AWS limit."""

AMI = ""
"""Name of the AMI that is registered from a destination's bundle."""
Late = dict[str, tuple[float, ...]]
"""By the object's name, for each object that may still appear, the time (as `time.time`) until which it may."""


class Unanswered:
    """The unanswered requests at one destination, of this process and of earlier ones."""

    def __init__(self, earlier: Late | None = None) -> None:
        self._until = {name: list(moments) for name, moments in (earlier or {}).items()}
        self._made: set[str] = set()

    def given_up(self, name: str) -> None:
        """Count a request that was sent and not answered."""
        self._until.setdefault(name, []).append(time.time() + LIFE_S)

    def made(self, name: str) -> None:
        """Note that a request was answered: its object is there."""
        self._made.add(name)

    def gone(self, name: str) -> None:
        """Note that an object of this name was there and was removed."""
        if name in self._made:
            self._made.discard(name)
        elif moments := self._until.get(name):
            moments.pop(0)

    def forget(self, name: str) -> None:
        """Note that no request about this name is unanswered any more."""
        self._until.pop(name, None)

    @property
    def late(self) -> Late:
        """The objects that may still appear, and those that answered requests have made under the same names."""
        now = time.time()
        late = {}
        for name, moments in self._until.items():
            # If the clock was set back meanwhile, they count from now on.
            moments[:] = [min(each, now + LIFE_S) for each in moments]
            if open_ := tuple(each for each in moments if each > now):
                late[name] = (*open_, open_[-1]) if name in self._made else open_
        return late


def latest(late: Mapping[int, Late]) -> datetime:
    """The time after which nothing may appear any more at any of the destinations, of which one has a late thing."""
    return datetime.fromtimestamp(
        max(each for names in late.values() for moments in names.values() for each in moments), UTC
    )
