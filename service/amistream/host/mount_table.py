"""The kernel's table of mounts, by line (proc(5), mountinfo). Names are bytes: any user may have mounted any name."""

from __future__ import annotations

import os
import re
import select
from dataclasses import dataclass
from pathlib import Path

from amistream.roots import MOUNTS

_ESCAPED = re.compile(rb"\\([0-7]{3})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """One mount."""

    number: int
    device: str
    """`MAJOR:MINOR`; some file systems (btrfs, overlay) have a number that belongs to no device."""
    root: bytes
    """The directory of the file system that is shown."""
    point: bytes
    kind: str
    source: bytes
    writable: bool
    """The file system may be written to, here or at another mount of it."""


class MountWatch:
    """Notices that this process sees other mounts than when the watch began. Raises OSError."""

    def __init__(self) -> None:
        self._descriptor = os.open(MOUNTS, os.O_RDONLY | os.O_CLOEXEC)
        self._poll = select.poll()
        self._poll.register(self._descriptor, select.POLLPRI)
        self._has_changed = False

    def has_changed(self) -> bool:
        """True from the first change on."""
        self._has_changed = self._has_changed or bool(self._poll.poll(0))
        return self._has_changed

    def close(self) -> None:
        os.close(self._descriptor)


def mounts(path: Path = MOUNTS) -> list[Mount]:
    """All mounts that this process sees, in the order in which they were made. Blocks; raises OSError."""
    found = []
    # A carriage return in a name is not escaped, so it ends no line here.
    for line in path.read_bytes().removesuffix(b"\n").split(b"\n"):
        fields, _, about = line.partition(b" - ")
        number, _, device, root, point, *_ = fields.split(b" ")
        kind, source, options, *_ = about.split(b" ")
        found.append(
            Mount(
                number=int(number),
                device=device.decode(),
                root=unescaped(root),
                point=unescaped(point),
                kind=kind.decode("utf-8", "backslashreplace"),
                source=unescaped(source),
                writable=b"rw" in options.split(b","),
            )
        )
    return found


def shows_the_same(mount: Mount, below: Mount) -> bool:
    """True if a mount shows the very directory that it covers of the one below: a bind mount onto itself.

    Systemd makes some for a service that may read everything and write nothing.
    """
    beneath = os.path.join(below.root, os.path.relpath(mount.point, below.point))  # noqa: PTH118 - bytes
    return (mount.device, mount.root) == (below.device, beneath)


def unescaped(field: bytes) -> bytes:
    """A field of the kernel's tables, in which space, tab, newline and backslash are octal numbers."""
    return _ESCAPED.sub(lambda found: bytes([int(found[1], 8) & 0xFF]), field)
