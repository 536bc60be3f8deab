"""Reads a running pipeline's counters: how far it is, how fast it is, and which stage limits it."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from time import perf_counter

from amistream.events import Progress, StageProgress
from amistream.pipeline import Pipeline

WINDOW_S = 5.0
"""Rates and the bottleneck are averages over this time."""

_MOSTLY = 0.5

_ADVICE = {
    "read": "the disk is the slowest part: read from a faster volume, or a copy in memory",
    "archive": "SHA-1 on one core is the slowest part, and cannot use more cores: only a faster processor helps",
    "compress": "compression is the slowest part: --compress fast needs the least CPU, and more cores help",
    "encrypt": "AES and SHA-1 on one core are the slowest part: a stronger --compress leaves less to encrypt",
    "split": "AES and SHA-1 on one core are the slowest part: a stronger --compress leaves less to encrypt",
    "upload": "the link or store is the slowest part: --compress auto sends less; try a higher --upload-concurrency",
}
_HELD_BACK = "the limit of --limit-upload is reached: raise it, or send less with --compress auto"
_REACHED = 0.8
"""Share of an upload limit from which on that limit is the bottleneck. Guess."""


@dataclass(frozen=True, slots=True)
class _Sample:
    at: float
    bytes_done: int
    waited_s: float
    bytes_sent: int
    stages: tuple[StageProgress, ...]

    @property
    def upload(self) -> StageProgress:
        return next(stage for stage in self.stages if stage.name == "upload")


class ProgressMeter:
    """Measures one pipeline; call `sample` for each display."""

    def __init__(self, pipeline: Pipeline, *, limit: int) -> None:
        """`limit`: bytes per second that may be sent to all destinations together; 0: no limit."""
        self._pipeline = pipeline
        self._limit = limit
        self._started = perf_counter()
        self._first = self._read_counters()
        self._recent: deque[_Sample] = deque([self._first])
        self._before_first_part = self._first

    def sample(self, *, over: bool = False) -> Progress:
        """The progress, with rates over the last seconds; `over` once every part is stored."""
        pipeline = self._pipeline
        now = self._read_counters()
        if not now.upload.bytes_in:
            self._before_first_part = now
        self._recent.append(now)
        while now.at - self._recent[0].at > WINDOW_S:
            self._recent.popleft()
        then = self._recent[0]
        total = pipeline.volume.size
        rate = (now.bytes_done - then.bytes_done) / (now.at - then.at) if now.at > then.at else 0.0
        bottleneck = self._bottleneck(then, now)
        before = pipeline.parts_before
        return Progress(
            bytes_total=total,
            bytes_done=now.bytes_done,
            parts_made=len(pipeline.split.result().parts),
            parts_stored=len(before) + pipeline.upload.parts_stored,
            bytes_stored=sum(part.size for part in before) + pipeline.upload.bytes_stored,
            elapsed_s=round(now.at - self._first.at, 3),
            rate=round(rate),
            eta_s=0.0 if over else self._time_left(now, rate),
            bottleneck=bottleneck,
            advice=self._advice(bottleneck, then, now),
            compression=pipeline.compression,
            stages=now.stages,
        )

    def overall(self) -> tuple[str | None, str, tuple[StageProgress, ...]]:
        """The stage that limited the whole pass, which option to change, and all stages."""
        now = self._read_counters()
        bottleneck = self._bottleneck(self._first, now)
        return bottleneck, self._advice(bottleneck, self._before_first_part, now), now.stages

    def _advice(self, bottleneck: str | None, then: _Sample, now: _Sample) -> str:
        """The option to change when `bottleneck` limits."""
        could_be_sent = self._limit * (now.at - then.at)
        if bottleneck == "upload" and could_be_sent and now.bytes_sent - then.bytes_sent > _REACHED * could_be_sent:
            return _HELD_BACK
        return _ADVICE.get(bottleneck or "", "")

    def _time_left(self, now: _Sample, rate: float) -> float | None:
        """Seconds until the volume is read, at `rate`; then until the finished parts are stored, at their rate so far.

        A resumed pass reads for a while before it makes its first part: that does not count.
        """
        if to_read := self._pipeline.volume.size - now.bytes_done:
            return round(to_read / rate, 1) if rate else None
        stored, to_store = now.upload.bytes_out, now.upload.bytes_in - now.upload.bytes_out
        if not stored or not to_store:
            return None
        return round(to_store * (now.at - self._before_first_part.at) / stored, 1)

    def _read_counters(self) -> _Sample:
        at, pipeline = perf_counter(), self._pipeline
        relay, upload, waited_s = pipeline.relay, pipeline.upload, pipeline.buffers.waited_s
        lanes = {"compress": pipeline.plan.workers, "upload": pipeline.plan.upload_concurrency}
        elapsed = at - self._started
        rows = []
        entered = relay.read_meter.bytes_out
        for meter in (relay.read_meter, *relay.meters.values()):
            # The splitter's time includes its waiting for a free buffer, which is the upload's doing.
            busy_s = meter.busy_s - (waited_s if meter.name == "split" else 0.0)
            rows.append((meter.name, entered, meter.bytes_out, busy_s, meter.waiting_s))
            entered = meter.bytes_out
        rows.append(("upload", entered, upload.bytes_stored, upload.busy_s, waited_s))
        stages = tuple(
            StageProgress(
                name=name,
                bytes_in=bytes_in,
                bytes_out=bytes_out,
                busy_s=round(max(0.0, busy_s), 3),
                waiting_s=round(waiting_s, 3),
                busy_share=round(min(1.0, max(0.0, busy_s) / elapsed / lanes.get(name, 1)), 3),
            )
            for name, bytes_in, bytes_out, busy_s, waiting_s in rows
        )
        return _Sample(at, pipeline.reader.offset, waited_s, upload.bytes_sent, stages)

    def _bottleneck(self, then: _Sample, now: _Sample) -> str | None:
        """The upload when workers mostly wait for it, else the stage whose lanes are busiest."""
        elapsed = now.at - then.at
        if not elapsed:
            return None
        # One worker at a time waits for a buffer; the others then wait for their turn behind it.
        if (now.waited_s - then.waited_s) / elapsed > _MOSTLY:
            return "upload"
        shares = {
            after.name: (after.busy_s - before.busy_s)
            / (self._pipeline.plan.workers if after.name == "compress" else 1)
            for before, after in zip(then.stages, now.stages, strict=True)
            if after.name != "upload"
        }
        return max(shares, key=lambda name: shares[name])
