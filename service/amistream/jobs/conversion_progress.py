"""Reads a running conversion's counters: how far it is, how fast it is, and which stage limits it."""

from __future__ import annotations

import os
from collections import deque
from dataclasses import dataclass
from time import perf_counter

from amistream.conversion import Conversion
from amistream.events import Progress, StageProgress
from amistream.jobs.progress import TELLING_S, WINDOW_S, slowest
from amistream.ports.snapshots import BLOCK

_MOST_PUTS = 256
_HELD_BACK = 0.8
"""Share of an upload limit from which on that limit is the bottleneck. Guess."""


@dataclass(frozen=True, slots=True)
class _Sample:
    at: float
    settled: int
    """Bytes of the blocks read that need no more work."""
    share: float
    """Share of all work that was done. Holes are none of it: they take no time."""
    sent: int
    put_s: float
    """Seconds that the pass waited for puts: its reading for buffers, then for the last blocks."""
    stages: tuple[StageProgress, ...]


class ConversionMeter:
    """Measures one conversion (`reporting.Meter`)."""

    def __init__(self, conversion: Conversion, *, read_lanes: int, limit: int) -> None:
        """`read_lanes` read at once; `limit`: bytes per second that may be sent, 0 for no limit."""
        self._conversion = conversion
        self._lanes = {"read": read_lanes, "hash": conversion.plan.workers, "put": conversion.plan.puts}
        self._limit = limit
        self._started = perf_counter()
        self._first = self._read_counters(self._started)
        self._recent: deque[_Sample] = deque([self._first])

    def sample(self, *, over: bool = False) -> Progress:
        """The progress, with rates over the last seconds; `over` once every block is stored."""
        conversion, now = self._conversion, self._read_counters(perf_counter())
        self._recent.append(now)
        while now.at - self._recent[0].at > WINDOW_S:
            self._recent.popleft()
        then, total = self._recent[0], conversion.source.size
        bottleneck = self._bottleneck(then, now)
        return Progress(
            bytes_total=total,
            bytes_done=min(total, conversion.source.offset),
            stored_share=1.0 if over else round(now.share, 4),
            blocks_made=conversion.blocks_read,
            blocks_stored=conversion.blocks_settled,
            bytes_stored=now.sent,
            bytes_in_flight=conversion.put.bytes_in_flight,
            elapsed_s=round(now.at - self._first.at, 3),
            rate=round((now.settled - then.settled) / (now.at - then.at)) if now.at > then.at else 0,
            eta_s=0.0 if over else self._time_left(now),
            bottleneck=bottleneck,
            advice=self._advice(bottleneck, then, now),
            stages=now.stages,
        )

    def overall(self) -> tuple[str | None, str, tuple[StageProgress, ...]]:
        """The stage that limited the whole pass, which option to change, and all stages."""
        now = self._read_counters(perf_counter())
        bottleneck = self._bottleneck(self._first, now)
        return bottleneck, self._advice(bottleneck, self._first, now), now.stages

    def _time_left(self, now: _Sample) -> float | None:
        """Seconds until all is stored, at the rate of the last seconds, or of the whole pass."""
        then = self._recent[0] if now.share > self._recent[0].share else self._first
        gained = now.share - then.share
        return round((1 - now.share) * (now.at - then.at) / gained, 1) if gained > 0 else None

    def _advice(self, bottleneck: str | None, then: _Sample, now: _Sample) -> str:
        """The option to change when `bottleneck` limits; never one that is in force already."""
        plan = self._conversion.plan
        cores = "more --workers" if plan.workers < len(os.sched_getaffinity(0)) else "more cores"
        match bottleneck:
            case "read" if self._lanes["read"] > 1:
                return f"fetching and unpacking the bundle is the slowest part: {cores} or a faster link help"
            case "read":
                return "reading SOURCE is the slowest part: a faster disk or link, or a copy in memory, helps"
            case "hash":
                return f"SHA-256 is the slowest part: {cores} help"
            case "put":
                could_be_sent = self._limit * (now.at - then.at)
                if could_be_sent and now.sent - then.sent > _HELD_BACK * could_be_sent:
                    return "the limit of --limit-upload is reached: raise it"
                ways = ": try a higher --puts" if plan.puts < _MOST_PUTS else ""
                return f"the link or EBS is the slowest part{ways}"
            case _:
                return ""

    def _read_counters(self, at: float) -> _Sample:
        conversion = self._conversion
        hashed_at = conversion.hashed_at
        read, settled = conversion.blocks_read, conversion.blocks_settled
        return _Sample(
            at=at,
            settled=settled * BLOCK,
            share=min(1.0, conversion.source.share * settled / read) if read else 0.0,
            sent=conversion.put.blocks_stored * BLOCK,
            put_s=conversion.buffers.waited_s + (max(0.0, at - hashed_at) if hashed_at else 0.0),
            stages=self._stages(at),
        )

    def _stages(self, at: float) -> tuple[StageProgress, ...]:
        """Every stage so far, in the path's order."""
        elapsed = max(at - self._started, 1e-9)
        rows = []
        entered = self._conversion.meters[0].bytes_out
        for meter in self._conversion.meters:
            busy_s = max(0.0, meter.busy_s)
            rows.append(
                StageProgress(
                    name=meter.name,
                    bytes_in=entered,
                    bytes_out=meter.bytes_out,
                    busy_s=round(busy_s, 3),
                    waiting_s=round(meter.waiting_s, 3),
                    busy_share=round(min(1.0, busy_s / elapsed / self._lanes[meter.name]), 3),
                    lanes=self._lanes[meter.name],
                )
            )
            entered = meter.bytes_out
        return tuple(rows)

    def _bottleneck(self, then: _Sample, now: _Sample) -> str | None:
        """The stage whose lanes were busiest, or the puts when more time went by waiting for them."""
        if now.at - self._first.at < TELLING_S:
            return None
        seconds = {
            after.name: (after.busy_s - before.busy_s) / self._lanes[after.name]
            for before, after in zip(then.stages, now.stages, strict=True)
        }
        seconds["put"] = now.put_s - then.put_s
        return slowest(seconds, now.at - then.at)
