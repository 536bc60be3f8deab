"""The volumes that benchmarks are run on."""

from __future__ import annotations

from pathlib import Path

import pytest

from amistream.source.file import open_volume
from amistream.source.foreign import HEAD, recognise
from amistream.values import MIB
from benchmarks.inputs import Inputs, warm
from benchmarks.timing import BenchmarkError


def test_a_volume_is_kept(tmp_path: Path) -> None:
    """A second run finds what the first one made."""
    inputs = Inputs(tmp_path, "synthetic")
    made = inputs.volume(MIB).stat().st_mtime_ns
    assert inputs.volume(MIB).stat().st_mtime_ns == made


@pytest.mark.parametrize("kind", ["usr", "synthetic"])
def test_a_volume_is_taken_for_a_disk(kind: str, tmp_path: Path) -> None:
    """A volume passes for a disk, though that of /usr is cut from an archive."""
    path = Inputs(tmp_path, kind).volume(MIB)
    assert recognise(path.read_bytes()[:HEAD]) is None
    assert path.stat().st_size == MIB


def test_repeated(tmp_path: Path) -> None:
    """A repeated volume is the unit, several times."""
    inputs = Inputs(tmp_path, "synthetic")
    assert inputs.repeated(MIB, 3).read_bytes() == inputs.volume(MIB).read_bytes() * 3
    assert inputs.repeated(MIB, 1) == inputs.volume(MIB)


def test_scattered(tmp_path: Path) -> None:
    """A scattered volume holds the unit's bytes between holes that the volume's own reader sees."""
    inputs = Inputs(tmp_path, "synthetic")
    path = inputs.scattered(MIB, 10 * MIB)
    warm(path)
    volume = open_volume(path)
    try:
        extents = volume.extents()
    finally:
        volume.close()
    data = path.read_bytes()
    assert len(extents) == 4
    assert b"".join(data[extent.offset : extent.end] for extent in extents) == inputs.volume(MIB).read_bytes()


def test_no_room(tmp_path: Path) -> None:
    """A volume larger than the disk is refused before anything is written."""
    with pytest.raises(BenchmarkError, match="free"):
        Inputs(tmp_path, "synthetic").volume(1 << 60)
    assert not list(tmp_path.iterdir())
