"""Puts files that the job changes, such as fstab, into the image: with new content, and as NAME.old beside it."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, replace

from amistream.source.tree.fstab import LARGEST
from amistream.source.tree.merged import Found, Seen, entries_of
from amistream.source.tree.report import Fate, Report, shown
from amistream.source.tree.surroundings import Surroundings
from amistream.source.tree.tree import NOBODY, ROOT, Row, Tree

_OLD = b".old"


@dataclass(frozen=True, slots=True)
class Replaced:
    """A file that gets another content, and its entries, taken out of those of its directory."""

    name: bytes
    found: list[Seen]
    change: Callable[[bytes], bytes]


def take_replaced(around: Surroundings, folder: bytes, found: Found, report: Report) -> list[Replaced]:
    """Take the files out of a directory's names that get another content."""
    taken = []
    for path, change in around.replaced.items():
        above, _, name = path.rpartition(b"/")
        if above != folder:
            continue
        taken.append(Replaced(name, entries_of(name, found.pop(name, ())), change))
        if found.pop(name + _OLD, None):
            report.add(Fate.LEFT_OUT, path + _OLD, "another file of the job has its name")
    return taken


def add_replaced(tree: Tree, above: int, file: Replaced, former: Row | None, seen: Seen | None) -> None:
    """Add a file that the job changes, and the one that was there. Raises OSError if that cannot be read."""
    new = Row(mode=stat.S_IFREG | 0o644, mtime=tree.mtime[ROOT], ctime=tree.ctime[ROOT])
    old = b""
    if former is not None and seen is not None:
        former = replace(former, inode=NOBODY, runs=None)
        regular = stat.S_ISREG(former.mode)
        if regular:
            old = _read_whole(seen)
            new = replace(former, mtime=new.mtime, ctime=new.ctime)
            former = replace(former, size=len(old))
        row = tree.add(former, above)
        tree.name(row, file.name + _OLD)
        if regular:
            tree.given[row] = old
    content = file.change(old)
    row = tree.add(replace(new, size=len(content)), above)
    tree.name(row, file.name)
    tree.given[row] = content


def _read_whole(seen: Seen) -> bytes:
    """The content of a small file. Raises OSError."""
    if seen.about().st_size > LARGEST:
        raise OSError(errno.EFBIG, f"{shown(seen.name)[1:]} has more than {LARGEST} bytes")
    return os.pread(seen.open(), LARGEST, 0)
