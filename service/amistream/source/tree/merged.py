"""Merges the entries of one directory in all layers that have it: the uppermost one comes in."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Sequence

from amistream.source.tree.handles import OpenDirectory, open_regular
from amistream.source.tree.layers import Layer

_NONE = -1


class Seen:
    """An entry of a directory in one layer."""

    __slots__ = ("_entry", "_file", "above", "layer", "name")

    def __init__(self, layer: int, above: OpenDirectory, entry: os.DirEntry[str]) -> None:
        """`above` is open until the next directory is read."""
        self.layer = layer
        self.above = above
        self.name = os.fsencode(entry.name)
        self._entry = entry
        self._file = _NONE

    @property
    def place(self) -> str | int:
        """The entry for a call of the kernel that takes no directory: its open file, or a path."""
        return self._file if self._file != _NONE else f"/proc/self/fd/{self.above.descriptor}/{self._entry.name}"

    @property
    def listed_as_directory(self) -> bool:
        """The directory above lists it as one: what is mounted over it is not looked at."""
        return self._entry.is_dir(follow_symlinks=False)

    def about(self) -> os.stat_result:
        """The entry's lstat, made once. Raises OSError."""
        return self._entry.stat(follow_symlinks=False)

    def open(self) -> int:
        """Open the regular file that `about` tells of; it stays open until `close`. Raises OSError."""
        if self._file == _NONE:
            about = self.about()
            self._file = open_regular(self.name, self.above, about.st_dev, about.st_ino, just_seen=True)
        return self._file

    def close(self) -> None:
        if self._file != _NONE:
            os.close(self._file)
            self._file = _NONE


Found = dict[bytes, list[Seen]]
"""The names in a directory, and their entries, that of the uppermost layer first."""
Chosen = list[tuple[Seen, os.stat_result]]
"""The entry that comes in, and the directories below it that it is merged with."""


def read_names(found: Found, layer: int, directory: OpenDirectory) -> None:
    """Add the entries of a directory in one layer, below those that were found. Raises OSError."""
    with os.scandir(directory.descriptor) as entries:
        for entry in entries:
            seen = Seen(layer, directory, entry)
            found.setdefault(seen.name, []).append(seen)


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
