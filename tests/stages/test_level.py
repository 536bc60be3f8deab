"""The automatic compression level."""

from __future__ import annotations

from amistream.stages.level import AUTO_LEVELS, AutoLevel


def levels(used: float, blocks: int, chooser: AutoLevel, share: list[float]) -> list[int]:
    share[0] = used
    return [chooser() for _ in range(blocks)]


def test_the_level_follows_the_queue() -> None:
    """The level starts lowest, rises while the upload is behind, holds in between, and falls when the cores are."""
    share = [0.0]
    chooser = AutoLevel(lambda: share[0])
    assert set(levels(0.0, 20, chooser, share)) == {AUTO_LEVELS[0]}
    climbing = levels(1.0, 40, chooser, share)
    assert climbing == sorted(climbing)
    assert climbing[-1] == AUTO_LEVELS[-1]
    assert set(levels(0.75, 20, chooser, share)) == {AUTO_LEVELS[-1]}
    falling = levels(0.25, 40, chooser, share)
    assert falling == sorted(falling, reverse=True)
    assert falling[-1] == AUTO_LEVELS[0]
