"""Random pauses, so that many hosts do not ask at the same moment."""

from __future__ import annotations

import random

_LONGEST_S = 60.0
_MOST_DOUBLINGS = 16


def pause_s(failures: int, *, first_s: float = 1.0, longest_s: float = _LONGEST_S) -> float:
    """Seconds before the next try after so many failures: up to `first_s`, doubled for each further one."""
    return jittered(min(longest_s, first_s * 2 ** min(failures - 1, _MOST_DOUBLINGS)))


def jittered(most_s: float) -> float:
    """A random time between half of `most_s` and all of it."""
    return random.uniform(most_s / 2, most_s)  # noqa: S311 - not a secret
