"""Small files of a user, read whole within bounds."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from amistream.bundles.place import read_manifest
from amistream.errors import RefusedError
from amistream.host import small_file


async def test_a_manifest_from_a_pipe_that_nobody_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A named pipe without a writer, given as a manifest, is refused within the time for a pipe."""
    monkeypatch.setattr(small_file, "PIPE_PATIENCE_S", 0.05)
    os.mkfifo(tmp_path / "image.manifest.xml")
    with pytest.raises(RefusedError, match="the pipe had no end within") as caught:
        await read_manifest(tmp_path / "image.manifest.xml")
    assert caught.value.code == "manifest.unreadable"


@pytest.mark.parametrize(
    ("name", "why"), [("/dev/zero", "it is not a file"), (".", "it is a directory"), ("none", "No such file")]
)
async def test_a_path_that_is_no_file(name: str, why: str, tmp_path: Path) -> None:
    """A device without an end, a directory, or nothing is refused as a manifest with the cause."""
    with pytest.raises(RefusedError, match=why):
        await read_manifest(tmp_path / name)
