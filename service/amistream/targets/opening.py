"""Chooses the target that a destination names: a file, a block device or the standard output."""

from __future__ import annotations

import os
from pathlib import Path

from amistream.errors import RefusedError
from amistream.ports.target import Target
from amistream.targets.device import DeviceTarget
from amistream.targets.file import FileTarget
from amistream.targets.stream import StreamTarget
from amistream.values import STANDARD_OUTPUT


def choose_target(destination: str, *, force: bool) -> Target:
    """Choose a target without opening it. `force` allows a device, and a file that exists. Raises `RefusedError`."""
    if destination == STANDARD_OUTPUT:
        return StreamTarget(1)
    path = Path(destination)
    if not path.is_block_device():
        return choose_file(path, force=force)
    if not force:
        raise RefusedError(
            "target.device",
            f"cannot unbundle to the block device {path}: all that is on it would be lost",
            hint="give --force if that is meant",
            field="destination",
        )
    return DeviceTarget(path)


def choose_file(path: Path, *, force: bool) -> FileTarget:
    """Choose a file, or the file that a link leads to. Raises `RefusedError` for anything else."""
    # Where a link leads nowhere or back to itself, the target says so when it is opened.
    path = Path(os.path.realpath(path))
    if path.exists() and not path.is_file():
        what = "a directory" if path.is_dir() else "neither a file nor a block device"
        raise RefusedError(
            "target.kind",
            f"cannot unbundle to {path}: it is {what}",
            hint="give the name of a new file, a block device, or - for the standard output",
            field="destination",
        )
    return FileTarget(path, replace=force)
