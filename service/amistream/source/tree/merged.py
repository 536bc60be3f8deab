"""Merges the entries of one directory in all layers that have it: the uppermost one comes in."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Sequence

from amistream.source.tree.handles import OpenDirectory, open_regular
from amistream.source.tree.layers import Layer

_NONE = -1


Place = tuple[int, OpenDirectory]
"""A directory in one layer: the layer, and the directory, open until the next one is read."""
Found = dict[bytes, tuple[Place, ...]]
"""The names in a directory, and where they are, the uppermost layer first."""


class Seen:
    """An entry of a directory in one layer."""

    __slots__ = ("_about", "_file", "above", "layer", "name")

    def __init__(self, name: bytes, place: Place, about: os.stat_result | None = None) -> None:
        """`about` is its lstat, if that was made."""
        self.name = name
        self.layer, self.above = place
        self._about = about
        self._file = _NONE

    @property
    def place(self) -> bytes | int:
        """The entry for a call of the kernel that takes no directory: its open file, or a path."""
        return self._file if self._file != _NONE else path_for_kernel(self.above, self.name)

    @property
    def listed_as_directory(self) -> bool:
        """The directory above lists it as one: what is mounted over it is not looked at."""
        name = os.fsdecode(self.name)
        with os.scandir(self.above.descriptor) as entries:
            return any(entry.name == name and entry.is_dir(follow_symlinks=False) for entry in entries)

    def about(self) -> os.stat_result:
        """The entry's lstat, made once. Raises OSError."""
        if self._about is None:
            self._about = os.stat(self.name, dir_fd=self.above.descriptor, follow_symlinks=False)
        return self._about

    def open(self) -> int:
        """Open the regular file that `about` describes; it stays open until `close`. Raises OSError."""
        if self._file == _NONE:
            about = self.about()
            self._file = open_regular(self.name, self.above, about.st_dev, about.st_ino, just_seen=True)
        return self._file

    def close(self) -> None:
        if self._file != _NONE:
            os.close(self._file)
            self._file = _NONE


Chosen = list[tuple[Seen, os.stat_result]]
"""The entry that comes in, and the directories below it that it is merged with."""


def read_names(found: Found, layer: int, directory: OpenDirectory) -> None:
    """Add the names of a directory in one layer, below those that were found. Raises OSError."""
    here = ((layer, directory),)
    names = map(os.fsencode, os.listdir(directory.descriptor))  # noqa: PTH208 - of a descriptor
    if not found:
        found.update(dict.fromkeys(names, here))
        return
    for name in names:
        found[name] = found.get(name, ()) + here


def path_for_kernel(above: OpenDirectory, name: bytes) -> bytes:
    """A path of an entry for calls that take no directory."""
    return b"/proc/self/fd/%d/%b" % (above.descriptor, name)


def entries_of(name: bytes, places: Iterable[Place]) -> list[Seen]:
    """The entries of one name."""
    return [Seen(name, place) for place in places]


def choose(
    found: Sequence[Seen],
    layers: Sequence[Layer],
    *,
    left_out: Callable[[Seen, os.stat_result], bool],
    covered: Callable[[str], None],
) -> Chosen:
    """Choose among the entries of one name. Raises OSError if the first of them cannot be looked at.

    An entry that is `left_out` hides those below it, as it would if it came in. `covered` gets the words of a layer
    that has something else in place of a directory, or a directory in place of something else.
    """
    chosen: Chosen = []
    for seen in found:
        layer = layers[seen.layer]
        try:
            about = seen.about()
        except OSError:
            if chosen:
                break  # only the part of a lower layer vanished
            raise
        if layer.deletes(about):
            break
        if chosen and not _both_directories(about, chosen[0][1]):
            upper = layers[chosen[0][0].layer]
            if upper.words and stat.S_IFMT(about.st_mode) != stat.S_IFMT(chosen[0][1].st_mode):
                covered(upper.words)
            break
        if left_out(seen, about):
            break
        chosen.append((seen, about))
        if layer.ends_merging(seen.place, about):
            break
    return chosen


def _both_directories(one: os.stat_result, other: os.stat_result) -> bool:
    return stat.S_ISDIR(one.st_mode) and stat.S_ISDIR(other.st_mode)
