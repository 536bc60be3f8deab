"""The metadata of a tree, in columns: some 100 bytes for each inode, whatever Python's objects cost. Pure.

A row is an inode. Row 0 is the root, row 1 `lost+found`; the others come depth first, the names of each directory
sorted by their bytes and together. Names are entries of their own, because several may lead to one inode.
"""

from __future__ import annotations

import hashlib
import stat
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, islice, pairwise, repeat
from typing import Any, Protocol

from amistream.source.tree.directories import entry_size
from amistream.source.tree.profiles import BLOCK, INODES_RESERVED, ROOT_INODE
from amistream.source.tree.records import packed_times
from amistream.source.tree.xattrs import Attribute

ROOT, LOST_AND_FOUND = 0, 1
LOST_AND_FOUND_NAME = b"lost+found"
NOBODY = (1 << 64) - 1
"""The inode of a row that was made up."""

KIND_BITS = stat.S_IFMT(0o777777)
"""The bits of a mode that give the kind of an inode."""
_MOST_OF_ENTRY = entry_size(0) + 3
"""Bytes of an entry besides its name, padding included."""
_TYPES = {
    stat.S_IFREG: 1,
    stat.S_IFDIR: 2,
    stat.S_IFCHR: 3,
    stat.S_IFBLK: 4,
    stat.S_IFIFO: 5,
    stat.S_IFSOCK: 6,
    stat.S_IFLNK: 7,
}
"""The kind of an inode as its directory entry records it."""


@dataclass(slots=True, kw_only=True)
class Row:
    """One inode, to be added to a tree. Times are packed (`records.packed_time`)."""

    mode: int
    uid: int = 0
    gid: int = 0
    size: int = 0
    mtime: int
    ctime: int
    device: int = 0
    """The device it is on."""
    inode: int = NOBODY
    layer: int = 0
    """The layer it comes from (`layers`)."""
    xattrs: tuple[Attribute, ...] = ()
    target: bytes = b""
    """Of a symbolic link."""
    special: tuple[int, int] = (0, 0)
    """Major and minor number, of a device."""
    runs: tuple[tuple[int, int], ...] | None = None
    """Blocks with data of a file with holes: place in the file, blocks."""


class About(Protocol):
    """An lstat. Its first items are mode, inode, device, links, owner, group and size."""

    @property
    def st_mtime_ns(self) -> int: ...
    @property
    def st_ctime_ns(self) -> int: ...
    def __iter__(self) -> Iterator[Any]: ...


def number_of(row: int) -> int:
    """The number of a row's inode: the reserved ones come first, and the root is one of them."""
    return ROOT_INODE if row == ROOT else INODES_RESERVED + row


def used_inodes(rows: int) -> int:
    """The inodes of a tree with so many rows, and the reserved ones; the root is among those."""
    return INODES_RESERVED + rows - 1


class Tree:
    """The columns. Rows and entries are only ever added, one directory after the other."""

    def __init__(self) -> None:
        self.mode = array("H")
        self.uid, self.gid = array("I"), array("I")
        self.size = array("Q")
        self.mtime, self.ctime = array("Q"), array("Q")
        self.links = array("I")
        self.parent = array("I")
        """Row of the directory that holds the first name."""
        self.entry = array("I")
        """The first name's entry."""
        self.inode = array("Q")
        self.device = array("H")
        """Place in `devices`."""
        self.devices: list[int] = []
        self.layer = array("B")
        self.below: dict[tuple[int, int], tuple[int, int]] = {}
        """Device and inode of the further directories that one is merged of, by row and layer."""
        self.xattrs = array("I")
        """Place in `xattr_sets`."""
        self.xattr_sets: list[tuple[Attribute, ...]] = [()]
        self.target: dict[int, bytes] = {}
        self.special: dict[int, tuple[int, int]] = {}
        self.runs: dict[int, tuple[tuple[int, int], ...]] = {}
        self.given: dict[int, bytes] = {}
        """Contents of the files that the job puts into the image itself."""
        self.entries: dict[int, tuple[int, int]] = {}
        """For each directory that was read: its first entry, and their number."""
        self.entry_row = array("I")
        self._names = bytearray()
        self._name_start = array("Q", [0])
        self._set_numbers: dict[tuple[Attribute, ...], int] = {(): 0}
        self._device_numbers: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self.mode)

    def add(self, row: Row, parent: int) -> int:
        """Add an inode; its name is added by `name`."""
        number, mode = len(self.mode), row.mode
        self.mode.append(mode)
        self.uid.append(row.uid)
        self.gid.append(row.gid)
        self.size.append(row.size)
        self.mtime.append(row.mtime)
        self.ctime.append(row.ctime)
        self.links.append(0)
        self.parent.append(parent)
        self.entry.append(len(self.entry_row))
        self.inode.append(row.inode)
        self.device.append(self._number_of_device(row.device))
        self.layer.append(row.layer)
        self.xattrs.append(self._number_of_set(row.xattrs) if row.xattrs else 0)
        if mode & KIND_BITS == stat.S_IFDIR:
            self.links[number] = 2
            if number:
                self.links[parent] += 1
        if row.target:
            self.target[number] = row.target
        if row.special != (0, 0):
            self.special[number] = row.special
        if row.runs is not None:
            self.runs[number] = row.runs
        return number

    def add_files(
        self,
        files: Sequence[About],
        names: Sequence[bytes],
        xattrs: Iterable[tuple[Attribute, ...]],
        *,
        layer: int,
        parent: int,
    ) -> None:
        """Add regular files of one name each, without holes, and these names: `add` and `name`, for many at once."""
        count, row = len(files), len(self.mode)
        mode, inode, device, _, uid, gid, size, *_ = zip(*files, strict=True)
        self.mode.extend(mode)
        self.uid.extend(uid)
        self.gid.extend(gid)
        self.size.extend(size)
        self.mtime.extend(packed_times(each.st_mtime_ns for each in files))
        self.ctime.extend(packed_times(each.st_ctime_ns for each in files))
        self.links.extend(repeat(1, count))
        self.parent.extend(repeat(parent, count))
        self.entry.extend(range(len(self.entry_row), len(self.entry_row) + count))
        self.inode.extend(inode)
        self.device.extend(map(self._number_of_device, device))
        self.layer.extend(repeat(layer, count))
        self.xattrs.extend(self._number_of_set(each) if each else 0 for each in xattrs)
        self.entry_row.extend(range(row, row + count))
        ends = accumulate(map(len, names), initial=len(self._names))
        self._name_start.extend(islice(ends, 1, None))
        self._names += b"".join(names)

    def _number_of_device(self, device: int) -> int:
        number = self._device_numbers.get(device)
        if number is None:
            number = self._device_numbers[device] = len(self.devices)
            self.devices.append(device)
        return number

    def _number_of_set(self, xattrs: tuple[Attribute, ...]) -> int:
        number = self._set_numbers.get(xattrs)
        if number is None:
            number = self._set_numbers[xattrs] = len(self.xattr_sets)
            self.xattr_sets.append(xattrs)
        return number

    def name(self, row: int, name: bytes) -> None:
        """Add a name for an inode, to the directory whose names are being added."""
        self.entry_row.append(row)
        self._names += name
        self._name_start.append(len(self._names))
        if self.mode[row] & KIND_BITS != stat.S_IFDIR:
            self.links[row] += 1

    def name_of(self, entry: int) -> bytes:
        return bytes(self._names[self._name_start[entry] : self._name_start[entry + 1]])

    def names_in(self, row: int) -> Iterator[tuple[int, bytes, int]]:
        """The entries of a directory: inode, name, and type."""
        first, count = self.entries.get(row, (0, 0))
        starts = self._name_start[first : first + count + 1]
        begin, mode = starts[0], self.mode
        names = bytes(self._names[begin : starts[-1]])
        for inside, (start, end) in zip(self.entry_row[first : first + count], pairwise(starts), strict=True):
            name = names[start - begin : end - begin]
            yield INODES_RESERVED + inside, name, _TYPES[mode[inside] & KIND_BITS]

    def entry_sizes(self, row: int) -> int:
        """Bytes of all entries of a directory, as a rule; for a small one a little more."""
        first, count = self.entries.get(row, (0, 0))
        starts = self._name_start[first : first + count + 1]
        about = starts[-1] - starts[0] + count * _MOST_OF_ENTRY
        if about <= BLOCK // 2:
            return about
        return sum(entry_size(end - start) for start, end in pairwise(starts))

    def identity(self, row: int, layer: int) -> tuple[int, int]:
        """Device and inode of a row in a layer that has it."""
        if self.layer[row] == layer:
            return self.devices[self.device[row]], self.inode[row]
        return self.below[row, layer]

    def path(self, row: int) -> bytes:
        """The first name of an inode, from the tree's root on, as `etc/fstab`."""
        names = []
        while row != ROOT:
            names.append(self.name_of(self.entry[row]))
            row = self.parent[row]
        return b"/".join(reversed(names))

    def data_runs(self, row: int) -> tuple[tuple[int, int], ...]:
        """The runs of a regular file's blocks that hold data."""
        if (runs := self.runs.get(row)) is not None:
            return runs
        blocks = -(-self.size[row] // BLOCK)
        return ((0, blocks),) if blocks else ()

    def data_blocks(self, row: int) -> int:
        """Blocks of a regular file that hold data."""
        if (runs := self.runs.get(row)) is not None:
            return sum(count for _, count in runs)
        return -(-self.size[row] // BLOCK)

    def digest(self) -> bytes:
        """A digest of all that decides about the image, but the files' contents: their times stand for those."""
        digest = hashlib.blake2b(digest_size=32)
        columns = (self.mode, self.uid, self.gid, self.size, self.mtime, self.ctime, self.links, self.parent)
        names = (self.entry, self.entry_row, self._names, self._name_start)
        for column in (*columns, self.inode, self.layer, self.xattrs, *names):
            digest.update(memoryview(column).cast("B"))
        rest = (self.xattr_sets, self.target, self.special, self.runs, self.given, self.entries)
        digest.update(repr(rest).encode())
        return digest.digest()
