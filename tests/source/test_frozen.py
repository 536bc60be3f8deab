"""A volume whose file systems are frozen until all is read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from amistream.errors import SourceError
from amistream.host.frozen import Frozen
from amistream.source.file import open_volume
from amistream.source.frozen import FrozenVolume
from support.volumes import MIB, random_image

if TYPE_CHECKING:
    from pathlib import Path


class Held(Frozen):
    """Freezes nothing."""

    def __init__(self) -> None:
        self.is_held = True

    def check(self) -> None:
        assert self.is_held

    def release(self) -> None:
        self.is_held = False

    def close(self) -> None:
        self.is_held = False


def test_read_again(tmp_path: Path) -> None:
    """The volume is read again while it is frozen; after the thaw that is refused, with the reason."""
    held = Held()
    volume = FrozenVolume(open_volume(random_image(tmp_path / "image", MIB)), held)
    try:
        volume.rewind()
        assert held.is_held
        volume.all_read()
        with pytest.raises(SourceError, match="cannot start over") as caught:
            volume.rewind()
        assert (caught.value.code, caught.value.field) == ("freeze.over", "freeze")
    finally:
        volume.close()
