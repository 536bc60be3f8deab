"""Makes the rows of a tree from what the kernel reports of its entries: as they are, emptied, or made up."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import replace

from amistream.source.tree.confined import place_for_member
from amistream.source.tree.entries import Runs, find_runs, may_have_holes, read_attributes
from amistream.source.tree.handles import read_link
from amistream.source.tree.layers import Layer
from amistream.source.tree.merged import Seen
from amistream.source.tree.profiles import Profile
from amistream.source.tree.records import packed_time
from amistream.source.tree.report import Fate, Report
from amistream.source.tree.tree import NOBODY, Row
from amistream.source.tree.xattrs import Attribute

_NODES = ((b"console", 0o600, 5, 1), (b"null", 0o666, 1, 3), (b"tty", 0o666, 5, 0), (b"zero", 0o666, 1, 5))
"""The devices that a system needs before it has filled /dev."""


class RowMaker:
    """Makes the rows of the entries of one walk."""

    def __init__(self, layers: Sequence[Layer], profile: Profile, report: Report) -> None:
        self._layers = layers
        self._profile = profile
        self._report = report

    def root(self, own: int) -> Row:
        """The row of the root, as layer `own` has it, with the attributes of the tree's."""
        attributes = self.attributes(self._layers[0].root, b"", 0)
        return make_row(os.fstat(self._layers[own].root), attributes, layer=own)

    def row(self, seen: Seen, about: os.stat_result, path: bytes) -> Row:
        """The row of an entry. Raises OSError for a link that cannot be read."""
        kind = stat.S_IFMT(about.st_mode)
        target, runs = b"", None
        if kind == stat.S_IFLNK:
            target = read_link(seen.name, seen.above.descriptor)
        elif kind == stat.S_IFREG and may_have_holes(about):
            runs = _runs_of(seen, about.st_size)
        if seen.above.member is None:
            attributes = self.attributes(seen.place, path, seen.layer)
        else:
            with place_for_member(seen.above.member, seen, about) as place:
                attributes = self.attributes(place, path, seen.layer, follow=True)
        return make_row(about, attributes, target, runs, seen.layer)

    def attributes(
        self, place: bytes | str | int, path: bytes, layer: int, *, follow: bool = False
    ) -> tuple[Attribute, ...]:
        """The extended attributes of an entry. Records those that have no place in the image."""
        kept, lost = read_attributes(place, self._profile, follow=follow, hidden=self._layers[layer].hidden)
        if lost:
            self._report.add(Fate.ATTRIBUTES, path, ", ".join(lost))
        return kept


def make_row(
    about: os.stat_result,
    attributes: tuple[Attribute, ...] = (),
    target: bytes = b"",
    runs: Runs | None = None,
    layer: int = 0,
) -> Row:
    """The row of an inode of which all that it needs has been read."""
    mode = about.st_mode
    kind = stat.S_IFMT(mode)
    device = kind in (stat.S_IFCHR, stat.S_IFBLK)
    return Row(
        mode=mode,
        uid=about.st_uid,
        gid=about.st_gid,
        size=about.st_size if kind == stat.S_IFREG else len(target),
        mtime=packed_time(about.st_mtime_ns),
        ctime=packed_time(about.st_ctime_ns),
        device=about.st_dev,
        inode=about.st_ino,
        layer=layer,
        xattrs=attributes,
        target=target,
        special=(os.major(about.st_rdev), os.minor(about.st_rdev)) if device else (0, 0),
        runs=runs,
    )


def emptied(row: Row) -> Row:
    """The row without its content: an inode of its own, with the owner and mode that it has as a file."""
    mode = row.mode if stat.S_ISREG(row.mode) else stat.S_IFREG | 0o444
    return replace(row, mode=mode, size=0, inode=NOBODY, target=b"", special=(0, 0), runs=None)


def device_rows(mtime: int, ctime: int) -> Iterator[tuple[bytes, Row]]:
    """The devices of an empty /dev, by name."""
    for name, mode, major, minor in _NODES:
        yield name, Row(mode=stat.S_IFCHR | mode, mtime=mtime, ctime=ctime, special=(major, minor))


def _runs_of(seen: Seen, size: int) -> Runs | None:
    """The runs of a file, or None if it has no hole, or cannot be asked."""
    try:
        return find_runs(seen.open(), size)
    except OSError:
        return None
