"""Reads a running pipeline's counters: how far it is, how fast it is, and which stage limits it."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from time import perf_counter

from amistream.events import Progress, StageProgress
from amistream.pipeline import Pipeline

WINDOW_S = 5.0
"""Rates and the bottleneck are averages over this time."""
TELLING_S = 5.0
"""A pass shorter than this reports no bottleneck: it may be that of its start. Guess."""

_IN_MEMORY = 0.2
"""Share by which data counts that is read and is not on its way yet: the first part of many small files takes long to
make, and a small volume is read whole before much of it is sent. Guess.
"""
_LEAST_BUSY = 0.25
"""Share of the time for which a stage must be busy to be named. Guess."""
_HELD_BACK = 0.8
"""Share of an upload limit from which on that limit is the bottleneck. Guess."""
_MOST_IN_FLIGHT = 64
_STRONGEST = 9
_SMALL = 6
"""Level from which on no other setting of `compress` sends much less."""


@dataclass(frozen=True, slots=True)
class _Sample:
    at: float
    stored: float
    """Bytes of the volume's data that are stored."""
    read: int
    sent: int
    upload_s: float
    """Seconds that the pass waited for the upload: its workers for buffers, then for the last parts."""
    stages: tuple[StageProgress, ...]


class ProgressMeter:
    """Measures one pipeline; call `sample` for each display."""

    def __init__(self, pipeline: Pipeline, *, limit: int) -> None:
        """`limit`: bytes per second that may be sent to all destinations together; 0: no limit."""
        self._pipeline = pipeline
        self._limit = limit
        self._started = perf_counter()
        self._size_before = sum(part.size for part in pipeline.parts_before)
        extents = pipeline.plan.extents
        self._data_size = pipeline.volume.size if extents is None else sum(each.length for each in extents)
        """Bytes to read. Holes are none of them: they take no time."""
        self._trail: deque[tuple[int, int]] = deque()
        """Bytes made, and how much data was read for them: from the last stored ones on."""
        self._first = self._read_counters()
        self._recent: deque[_Sample] = deque([self._first])
        self._before_first_part = self._first

    def sample(self, *, over: bool = False) -> Progress:
        """The progress, with rates over the last seconds; `over` once every part is stored."""
        pipeline = self._pipeline
        now = self._read_counters()
        if not now.sent:
            self._before_first_part = now
        self._recent.append(now)
        while now.at - self._recent[0].at > WINDOW_S:
            self._recent.popleft()
        then = self._recent[0]
        bottleneck = self._bottleneck(then, now)
        return Progress(
            bytes_total=pipeline.volume.size,
            bytes_done=pipeline.reader.offset,
            stored_share=1.0 if over else self._share(now),
            parts_made=len(pipeline.split.result().parts),
            parts_stored=len(pipeline.parts_before) + pipeline.upload.parts_stored,
            bytes_stored=self._size_before + pipeline.upload.bytes_stored,
            bytes_in_flight=pipeline.upload.bytes_in_flight,
            elapsed_s=round(now.at - self._first.at, 3),
            rate=self._rate(then, now),
            eta_s=0.0 if over else self._time_left(then, now),
            bottleneck=bottleneck,
            advice=self._advice(bottleneck, then, now),
            compression=pipeline.compression,
            stages=now.stages,
        )

    def _share(self, now: _Sample) -> float:
        done = now.stored + _IN_MEMORY * max(0.0, now.read - now.stored)
        return round(done / self._data_size, 4) if self._data_size else 0.0

    @staticmethod
    def _rate(then: _Sample, now: _Sample) -> int:
        """Data stored per second; before the first part is on its way, data read."""
        gained = now.stored - then.stored if now.sent else now.read - then.read
        return round(gained / (now.at - then.at)) if now.at > then.at else 0

    def overall(self) -> tuple[str | None, str, tuple[StageProgress, ...]]:
        """The stage that limited the whole pass, which option to change, and all stages."""
        now = self._read_counters()
        bottleneck = self._bottleneck(self._first, now)
        return bottleneck, self._advice(bottleneck, self._before_first_part, now), now.stages

    def _advice(self, bottleneck: str | None, then: _Sample, now: _Sample) -> str:
        """The option to change when `bottleneck` limits; never one that is in force already."""
        plan = self._pipeline.plan
        level = plan.level or 0  # 0: it follows the link
        match bottleneck:
            case "read":
                return "reading SOURCE is the slowest part: a faster disk or link, or a copy in memory, helps"
            case "archive":
                return "SHA-1 on one core is the slowest part, and cannot use more cores: only a faster processor helps"
            case "compress":
                cores = "more --workers" if plan.workers < len(os.sched_getaffinity(0)) else "more cores"
                less = "" if level == 1 else "--compress fast needs the least CPU, and "
                return f"compression is the slowest part: {less}{cores} help"
            case "encrypt" | "split":
                how = "a stronger --compress leaves less to encrypt"
                how = "only a faster processor helps" if level == _STRONGEST else how
                return f"AES and SHA-1 on one core are the slowest part: {how}"
            case "upload":
                ways = ["--compress auto sends less"] if 0 < level < _SMALL else []
                could_be_sent = self._limit * (now.at - then.at)
                if could_be_sent and now.sent - then.sent > _HELD_BACK * could_be_sent:
                    return "; ".join(["the limit of --limit-upload is reached: raise it", *ways])
                if plan.upload_concurrency < _MOST_IN_FLIGHT:
                    ways.append("try a higher --upload-concurrency")
                return ": ".join(filter(None, ("the link or store is the slowest part", "; ".join(ways))))
            case _:
                return ""

    def _time_left(self, then: _Sample, now: _Sample) -> float | None:
        """Seconds until all data is stored, at the rate since `then`, or since the first part was sent."""
        if now.stored <= then.stored:
            then = self._before_first_part
        gained = now.stored - then.stored
        left = self._data_size - now.stored
        return round(left * (now.at - then.at) / gained, 1) if gained > 0 else None

    def _read_counters(self) -> _Sample:
        pipeline = self._pipeline
        at = perf_counter()
        return _Sample(
            at=at,
            stored=self._stored(),
            read=pipeline.relay.read_meter.bytes_out,
            sent=pipeline.upload.bytes_sent,
            upload_s=pipeline.buffers.waited_s + (max(0.0, at - pipeline.made_at) if pipeline.made_at else 0.0),
            stages=self._stages(at),
        )

    def _stored(self) -> float:
        """Bytes of the volume's data in what is stored so far: what was read when that was made."""
        pipeline, upload, trail = self._pipeline, self._pipeline.upload, self._trail
        read, made = pipeline.relay.read_meter.bytes_out, self._size_before + pipeline.relay.meters["encrypt"].bytes_out
        stored = self._size_before + upload.bytes_stored + upload.bytes_under_way
        if trail and trail[-1][0] == made:
            trail.pop()
        trail.append((made, read))
        while len(trail) > 1 and trail[1][0] <= stored:
            trail.popleft()
        (made_then, read_then), (made_next, read_next) = trail[0], trail[min(1, len(trail) - 1)]
        share = (stored - made_then) / (made_next - made_then) if made_next > made_then else 0.0
        return read_then + share * (read_next - read_then)

    def _stages(self, at: float) -> tuple[StageProgress, ...]:
        """Every stage so far, in the data path's order."""
        pipeline = self._pipeline
        relay, upload = pipeline.relay, pipeline.upload
        lanes = {"compress": pipeline.plan.workers, "upload": pipeline.plan.upload_concurrency}
        elapsed = at - self._started
        rows = []
        entered = relay.read_meter.bytes_out
        for meter in (relay.read_meter, *relay.meters.values()):
            rows.append((meter.name, entered, meter.bytes_out, meter.busy_s, meter.waiting_s))
            entered = meter.bytes_out
        sent = upload.bytes_stored + upload.bytes_under_way
        rows.append(("upload", entered, sent, upload.busy_s, pipeline.buffers.waited_s))
        return tuple(
            StageProgress(
                name=name,
                bytes_in=bytes_in,
                bytes_out=bytes_out,
                busy_s=round(max(0.0, busy_s), 3),
                waiting_s=round(waiting_s, 3),
                busy_share=round(min(1.0, max(0.0, busy_s) / elapsed / lanes.get(name, 1)), 3),
                lanes=lanes.get(name, 1),
            )
            for name, bytes_in, bytes_out, busy_s, waiting_s in rows
        )

    def _bottleneck(self, then: _Sample, now: _Sample) -> str | None:
        """The stage whose lanes were busiest, or the upload when more time went by waiting for it."""
        if now.at - self._first.at < TELLING_S:
            return None
        seconds = {
            after.name: (after.busy_s - before.busy_s)
            / (self._pipeline.plan.workers if after.name == "compress" else 1)
            for before, after in zip(then.stages, now.stages, strict=True)
        }
        seconds["upload"] = now.upload_s - then.upload_s
        return slowest(seconds, now.at - then.at)


def slowest(seconds: Mapping[str, float], elapsed_s: float) -> str | None:
    """The stage that was busy for the longest; None if even that one was idle mostly: other programs have the cores."""
    name = max(seconds, key=lambda name: seconds[name])
    return name if seconds[name] >= _LEAST_BUSY * elapsed_s else None
