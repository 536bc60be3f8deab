"""Reads a running pipeline's counters and says how far it is, how fast it goes, and which stage limits it."""

from __future__ import annotations

from collections import deque
from time import perf_counter

from amistream.events import Progress, StageProgress
from amistream.pipeline import Pipeline

WINDOW_S = 5.0
"""Rates and the bottleneck are taken over this long."""

_MOSTLY = 0.5


class ProgressMeter:
    """One pipeline's; call `sample` as often as you want to show something."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._started = perf_counter()
        self._samples: deque[tuple[float, int, float, dict[str, float]]] = deque()

    def stages(self) -> tuple[StageProgress, ...]:
        """Every stage so far, in the data path's order."""
        pipeline = self._pipeline
        relay, upload = pipeline.relay, pipeline.upload
        rows = []
        entered = relay.read_meter.bytes_out
        for meter in (relay.read_meter, *relay.meters.values()):
            # The splitter's time includes its waiting for a free buffer, which is the upload's doing.
            waited = pipeline.buffers.waited_s if meter.name == "split" else 0.0
            rows.append(_row(meter.name, entered, meter.bytes_out, meter.busy_s - waited, meter.waiting_s))
            entered = meter.bytes_out
        rows.append(_row("upload", entered, upload.bytes_stored, upload.busy_s, pipeline.buffers.waited_s))
        return tuple(rows)

    def sample(self) -> Progress:
        pipeline = self._pipeline
        now = perf_counter()
        stages = self.stages()
        done, total = pipeline.reader.offset, pipeline.volume.size
        busy = {stage.name: stage.busy_s for stage in stages}
        self._samples.append((now, done, pipeline.buffers.waited_s, busy))
        while now - self._samples[0][0] > WINDOW_S:
            self._samples.popleft()
        then, done_then, _, _ = self._samples[0]
        rate = (done - done_then) / (now - then) if now > then else 0.0
        return Progress(
            bytes_total=total,
            bytes_done=done,
            parts_made=len(pipeline.split.result().parts),
            parts_stored=pipeline.upload.parts_stored,
            bytes_stored=pipeline.upload.bytes_stored,
            elapsed_s=round(now - self._started, 3),
            rate=round(rate),
            eta_s=round((total - done) / rate, 1) if rate else None,
            bottleneck=self._bottleneck(),
            stages=stages,
        )

    def _bottleneck(self) -> str | None:
        """The upload when workers mostly wait for it, else the stage whose lanes are busiest."""
        (then, _, waited_then, busy_then), (now, _, waited, busy) = self._samples[0], self._samples[-1]
        elapsed = now - then
        if not elapsed:
            return None
        # One worker at a time waits for a buffer; the others then wait for their turn behind it.
        if (waited - waited_then) / elapsed > _MOSTLY:
            return "upload"
        lanes = {"compress": self._pipeline.plan.workers}
        share = {
            name: (busy[name] - busy_then[name]) / elapsed / lanes.get(name, 1) for name in busy if name != "upload"
        }
        return max(share, key=lambda name: share[name])


def _row(name: str, bytes_in: int, bytes_out: int, busy_s: float, waiting_s: float) -> StageProgress:
    return StageProgress(
        name=name,
        bytes_in=bytes_in,
        bytes_out=bytes_out,
        busy_s=round(max(0.0, busy_s), 3),
        waiting_s=round(waiting_s, 3),
    )
