"""The progress of a conversion by its counters, on scripted clocks."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import pytest

from amistream.conversion import Conversion, ConversionPlan
from amistream.flow.relay import Meter
from amistream.jobs import conversion_progress
from amistream.jobs.conversion_progress import ConversionMeter
from amistream.ports.snapshots import BLOCK


@dataclass
class Counters:
    """Counters as a conversion has them."""

    puts: int = 4
    source: Any = field(default_factory=lambda: SimpleNamespace(size=100 * BLOCK - 7, offset=0, share=0.0))
    buffers: Any = field(default_factory=lambda: SimpleNamespace(waited_s=0.0))
    put: Any = field(default_factory=lambda: SimpleNamespace(blocks_stored=0, bytes_in_flight=0))
    hashed_at: float | None = None
    blocks_read: int = 0
    blocks_settled: int = 0
    busy: dict[str, float] = field(default_factory=lambda: {"read": 0.0, "hash": 0.0, "put": 0.0})

    @property
    def plan(self) -> ConversionPlan:
        return ConversionPlan(workers=2, puts=self.puts)

    @property
    def meters(self) -> tuple[Meter, ...]:
        sizes = {"read": self.blocks_read, "hash": self.blocks_read, "put": self.put.blocks_stored}
        return tuple(Meter(name, sizes[name] * BLOCK, busy_s) for name, busy_s in self.busy.items())

    def moved(self, *, offset: int, made: int, settled: int, stored: int, data: float = 100, **busy: float) -> None:
        """The state of a later moment; offset and data, which is all that has to be read, in blocks."""
        self.source.offset = min(self.source.size, offset * BLOCK)
        self.source.share = made / data
        self.blocks_read, self.blocks_settled, self.put.blocks_stored = made, settled, stored
        self.busy.update(busy)


@dataclass
class Scene:
    """Counters, their meter, and the time."""

    counters: Counters
    meter: ConversionMeter
    now: float = 0.0


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Scene:
    made = Scene(counters=Counters(), meter=cast("ConversionMeter", None))
    monkeypatch.setattr(conversion_progress, "perf_counter", lambda: made.now)
    made.meter = ConversionMeter(cast("Conversion", made.counters), read_lanes=1, limit=2 * BLOCK)
    return made


def test_how_far(scene: Scene) -> None:
    """Blocks in work are not stored yet, holes count for nothing, and the end is all of the image."""
    scene.now = 2.0
    scene.counters.moved(offset=50, made=30, settled=20, stored=15, data=80)
    progress = scene.meter.sample()
    assert (progress.bytes_done, progress.bytes_total) == (50 * BLOCK, 100 * BLOCK - 7)
    assert progress.stored_share == pytest.approx(0.25, abs=0.001)
    assert (progress.blocks_made, progress.blocks_stored, progress.bytes_stored) == (30, 20, 15 * BLOCK)
    assert progress.rate == 10 * BLOCK
    assert progress.eta_s == pytest.approx(6.0, abs=0.01)
    assert (progress.bottleneck, progress.parts_made) == (None, 0)
    scene.counters.moved(offset=100, made=70, settled=70, stored=60)
    over = scene.meter.sample(over=True)
    assert (over.stored_share, over.eta_s, over.bytes_done) == (1.0, 0.0, over.bytes_total)


def test_nothing_is_known_at_the_start(scene: Scene) -> None:
    """Without a stored block there is no rate and no time left."""
    progress = scene.meter.sample()
    assert (progress.stored_share, progress.rate, progress.eta_s) == (0.0, 0, None)


@pytest.mark.parametrize(
    ("busy", "waited", "bottleneck", "word"),
    [
        ({"read": 4.5, "hash": 2.0}, 0.5, "read", "reading SOURCE is the slowest part"),
        ({"read": 0.5, "hash": 9.5}, 0.5, "hash", "SHA-256 is the slowest part"),
        ({"read": 0.5, "hash": 2.0}, 4.0, "put", "try a higher --puts"),
        ({"read": 0.5, "hash": 2.0}, 1.0, None, ""),
    ],
)
def test_what_limits(busy: dict[str, float], waited: float, bottleneck: str | None, word: str, scene: Scene) -> None:
    """The stage whose lanes were busiest limits, or the puts when the reading waited longer; none if all were idle."""
    scene.now = 5.0
    scene.counters.moved(offset=50, made=30, settled=20, stored=3, **busy)
    scene.counters.buffers.waited_s = waited
    progress = scene.meter.sample()
    assert (progress.bottleneck, word in progress.advice) == (bottleneck, True)
    found, advice, stages = scene.meter.overall()
    assert (found, word in advice) == (bottleneck, True)
    assert [stage.name for stage in stages] == ["read", "hash", "put"]
    assert stages[0].busy_share == pytest.approx(busy["read"] / 5)


def test_the_limit_of_the_rate(scene: Scene) -> None:
    """A limit of the rate that is reached is what to raise; if all puts are in force, no more are advised."""
    scene.now = 5.0
    scene.counters.buffers.waited_s = 4.5
    scene.counters.moved(offset=50, made=30, settled=20, stored=9)
    assert scene.meter.sample().advice == "the limit of --limit-upload is reached: raise it"
    scene.counters.put.blocks_stored, scene.counters.puts = 2, 256
    assert scene.meter.sample().advice == "the link or EBS is the slowest part"


def test_the_last_blocks(scene: Scene) -> None:
    """The time behind the last read is time of the puts."""
    scene.now, scene.counters.hashed_at = 5.0, 1.0
    scene.counters.moved(offset=100, made=30, settled=20, stored=2)
    assert scene.meter.sample().bottleneck == "put"


def test_a_bundle_is_read_by_many(scene: Scene) -> None:
    """The source that unpacks on several cores is measured by all of them."""
    meter = ConversionMeter(cast("Conversion", scene.counters), read_lanes=2, limit=0)
    scene.now = 5.0
    scene.counters.moved(offset=50, made=30, settled=20, stored=10, read=9.0, hash=0.5)
    progress = meter.sample()
    assert (progress.bottleneck, "unpacking" in progress.advice) == ("read", True)
