"""Numbers about the queue since the daemon's start, for the metrics."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True, kw_only=True)
class Counts:
    """`results` counts the results by outcome. `redelivered` messages were received before, here or elsewhere."""

    received: int = 0
    redelivered: int = 0
    given_back: int = 0
    dead: int = 0
    results: Counter[str] = field(default_factory=Counter)
