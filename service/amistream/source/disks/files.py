"""Finds files by path in the file systems of a disk, without mounting them.

Links are followed within the disk alone: an absolute one begins at the root, and `..` does not leave it. Another file
system can stand in for a directory, as if it were mounted there.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Protocol, TypeVar

from amistream.source.disks.reading import DoubtError
from amistream.values import KIB

MOST_LINKS = 40
"""Links in one path, as in Linux."""
MOST_STEPS = 4096
"""Names in one path, with those of its links."""
MOST_NAMES = 100_000
"""Names of a directory that are listed."""
LONGEST_LINK = 4 * KIB


AnyRun = TypeVar("AnyRun", bound="Run")


class Kind(Enum):
    FILE = auto()
    DIRECTORY = auto()
    LINK = auto()
    OTHER = auto()

    @classmethod
    def of(cls, mode: int) -> Kind:
        """The kind in the mode of an inode."""
        return _KINDS.get(mode & 0xF000, cls.OTHER)


_KINDS = {0x8000: Kind.FILE, 0x4000: Kind.DIRECTORY, 0xA000: Kind.LINK}


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A file, directory or link, as its inode describes it."""

    number: int
    kind: Kind
    size: int
    has_attributes: bool
    """It has extended attributes, such as a label of SELinux."""


class Run(Protocol):
    """Neighbouring blocks of a file's content."""

    @property
    def logical(self) -> int:
        """The place of the first block in the file."""

    @property
    def blocks(self) -> int:
        """Their number."""


class Tree(Protocol):
    """One file system: its inodes by their numbers. All calls raise `DoubtError`."""

    @property
    def root(self) -> int:
        """The number of the root directory."""

    def node(self, number: int) -> Node:
        """Read the inode of this number."""

    def entries(self, directory: Node) -> Iterator[tuple[str, int]]:
        """Each name in a directory, with its inode's number; `.` and `..` may be among them."""

    def content(self, file: Node, offset: int, length: int) -> bytes:
        """The bytes of a file or link from `offset` on: `length` of them, or fewer at its end."""


@dataclass(frozen=True, slots=True)
class File:
    """A regular file that was found."""

    path: str
    """Without links."""
    node: Node
    _tree: Tree

    @property
    def size(self) -> int:
        return self.node.size

    def read(self, offset: int, length: int) -> bytes:
        """Read `length` bytes from `offset` on, or fewer at the file's end. Raises `DoubtError`."""
        return self._tree.content(self.node, offset, length)


@dataclass(frozen=True, slots=True)
class _Place:
    """A name on the way through the directories, and the file system it led to."""

    name: str
    tree: Tree
    node: Node


class Files:
    """The files of a root file system, and of those mounted in it. All calls raise `DoubtError`."""

    def __init__(self, root: Tree, mounts: Mapping[str, Tree] | None = None) -> None:
        """`mounts` has the other file systems, each by the path of the directory that it covers."""
        self._root = root
        self._mounts = {tuple(_steps(path)): tree for path, tree in (mounts or {}).items()}

    def node(self, path: str, *, follow: bool = True) -> Node | None:
        """The entry at the path; without `follow` the link itself where it is one. None if nothing is there."""
        way = self._walk(path, follow=follow)
        return way[-1].node if way else None

    def exists(self, path: str) -> bool:
        """True if the path leads to anything; False for a link that leads nowhere."""
        return self.node(path) is not None

    def is_directory(self, path: str) -> bool:
        node = self.node(path)
        return node is not None and node.kind is Kind.DIRECTORY

    def names(self, path: str) -> list[str]:
        """The names in a directory, sorted; none if there is no such directory."""
        way = self._walk(path)
        if not way or way[-1].node.kind is not Kind.DIRECTORY:
            return []
        names: list[str] = []
        for name, _ in way[-1].tree.entries(way[-1].node):
            if len(names) == MOST_NAMES:
                raise DoubtError(f"the directory {path} has more than {MOST_NAMES} names")
            if name not in (".", ".."):
                names.append(name)
        return sorted(names)

    def file(self, path: str) -> File | None:
        """The regular file at the path, or None if there is no such file."""
        way = self._walk(path)
        if not way or way[-1].node.kind is not Kind.FILE:
            return None
        return File("/" + "/".join(place.name for place in way[1:]), way[-1].node, way[-1].tree)

    def read(self, path: str, most: int) -> bytes | None:
        """The first `most` bytes of the regular file at the path, or None if there is no such file."""
        file = self.file(path)
        return None if file is None else file.read(0, most)

    def link(self, path: str) -> str | None:
        """The target of the link at the path, or None if there is no link."""
        way = self._walk(path, follow=False)
        if not way or way[-1].node.kind is not Kind.LINK:
            return None
        return _target(way[-1].tree, way[-1].node)

    def _walk(self, path: str, *, follow: bool = True) -> list[_Place]:
        """The places from the root to where the path leads; empty if it leads nowhere."""
        start = [self._enter((), "", self._root, self._root.root)]
        way, links, steps = list(start), 0, 0
        ahead = deque(_steps(path))
        while ahead:
            name, steps = ahead.popleft(), steps + 1
            if steps > MOST_STEPS:
                raise DoubtError(f"the path {path} leads through more than {MOST_STEPS} names")
            here = way[-1]
            if here.node.kind is not Kind.DIRECTORY:
                return []
            if name == "..":
                way = way[:-1] or way
                continue
            number = next((child for each, child in here.tree.entries(here.node) if each == name), None)
            if number is None:
                return []
            place = self._enter(tuple(each.name for each in way[1:]), name, here.tree, number)
            if place.node.kind is Kind.LINK and (ahead or follow):
                links += 1
                if links > MOST_LINKS:
                    return []
                target = _target(here.tree, place.node)
                way = list(start) if target.startswith("/") else way
                ahead.extendleft(reversed(_steps(target)))
            else:
                way.append(place)
        return way

    def _enter(self, above: tuple[str, ...], name: str, tree: Tree, number: int) -> _Place:
        """The place that a name leads to: the root of another file system where one is mounted."""
        mounted = self._mounts.get((*above, name) if name else above)
        if mounted is None:
            return _Place(name, tree, tree.node(number))
        return _Place(name, mounted, mounted.node(mounted.root))


def read_runs(
    runs: Sequence[AnyRun], block: int, offset: int, length: int, read: Callable[[AnyRun, int, int], bytes]
) -> bytes:
    """Read `length` bytes of a file from its runs, which ascend; blocks of `block` bytes in none of them are zeros.

    `read(run, inside, length)` reads bytes of one run.
    """
    found = bytearray(length)
    first = bisect_right(runs, offset // block, key=lambda run: run.logical)
    for run in runs[max(0, first - 1) :]:
        start, end = run.logical * block, (run.logical + run.blocks) * block
        if start >= offset + length:
            break
        low, high = max(start, offset), min(end, offset + length)
        if low < high:
            found[low - offset : high - offset] = read(run, low - start, high - low)
    return bytes(found)


def _steps(path: str) -> list[str]:
    return [step for step in path.split("/") if step not in ("", ".")]


def _target(tree: Tree, link: Node) -> str:
    if link.size > LONGEST_LINK:
        raise DoubtError(f"the link in inode {link.number} has {link.size} bytes")
    return tree.content(link, 0, link.size).decode("utf-8", "surrogateescape")
