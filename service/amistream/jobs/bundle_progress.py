"""Reads the counters of work on a bundle that exists: how far it is, how fast, and how long it takes yet."""

from __future__ import annotations

from collections import deque
from time import perf_counter

from amistream.bundles.meter import Meter
from amistream.events import Progress
from amistream.jobs.progress import WINDOW_S


class BundleMeter:
    """Measures work on the parts of one bundle (`reporting.Meter`). `counters` are those that the work counts up."""

    def __init__(self) -> None:
        self.counters = Meter()
        self._started = perf_counter()
        self._recent: deque[tuple[float, int]] = deque([(self._started, 0)])

    def sample(self, *, over: bool = False) -> Progress:
        """The progress, with the rate over the last seconds."""
        counters, now = self.counters, perf_counter()
        total, done = counters.bytes_total, counters.bytes_done
        self._recent.append((now, done))
        while now - self._recent[0][0] > WINDOW_S:
            self._recent.popleft()
        then, before = self._recent[0]
        rate = (done - before) / (now - then) if now > then else 0.0
        left_s = (total - done) / rate if rate and total >= done else None
        return Progress(
            bytes_total=total,
            bytes_done=done,
            stored_share=1.0 if over else round(min(1.0, done / total), 4) if total else 0.0,
            parts_made=counters.parts,
            parts_stored=counters.parts_done,
            bytes_stored=counters.bytes_sent,
            elapsed_s=round(now - self._started, 3),
            rate=round(rate),
            eta_s=0.0 if over else left_s and round(left_s, 1),
            bottleneck=None,
            stages=(),
        )
