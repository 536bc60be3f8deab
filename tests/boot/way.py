"""The way of a disk through amistream: into a bundle in a directory, and out again."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from support import commands
from support.daemons import identity

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from support.keys import KeyRing

PATIENCE_S = 600


def bundled_and_unbundled(disk: Path, directory: Path, keys: KeyRing, *options: str) -> Path:
    """Bundle a disk with these options, and return the image that comes back."""
    directory.mkdir(exist_ok=True)
    here = ("--in-process", "--no-register", "--no-inherit", "--arch", "x86_64")
    _amistream(directory, "bundle", disk, "--to", directory / "bundle", *identity(keys), *here, *options)
    (manifest,) = (directory / "bundle").glob("*.manifest.xml")
    image = directory / "image.img"
    _amistream(directory, "unbundle", manifest, image, "--private-key", keys.user.key, "--cert", keys.user.certificate)
    return image


def inspected(disk: Path, directory: Path) -> dict[str, Any]:
    """Report what `amistream inspect` finds on a disk."""
    found: dict[str, Any] = json.loads(_amistream(directory, "inspect", disk, "--json"))
    return found


def _amistream(directory: Path, *words: object) -> str:
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": str(directory),
        "AMISTREAM_STATE_DIR": str(directory / "state"),
        **{name: value for name, value in os.environ.items() if name.startswith("COVERAGE")},
    }
    line: Sequence[object] = (commands.COMMANDS / "amistream", *words)
    done = commands.run(line, cwd=directory, env=environ, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr
    return done.stdout
