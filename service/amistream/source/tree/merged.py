"""Merges the entries of one directory in all layers that have it: the uppermost one comes in."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from amistream.source.tree.layers import Layer


@dataclass(frozen=True, slots=True)
class Seen:
    """An entry of a directory in one layer."""

    layer: int
    descriptor: int
    """Of the directory, open until the next one is read."""
    entry: os.DirEntry[str]

    @property
    def name(self) -> bytes:
        return os.fsencode(self.entry.name)

    @property
    def place(self) -> str:
        return f"/proc/self/fd/{self.descriptor}/{self.entry.name}"

    def about(self) -> os.stat_result:
        return self.entry.stat(follow_symlinks=False)


Found = dict[bytes, list[Seen]]
"""The names in a directory, and their entries, that of the uppermost layer first."""
Chosen = list[tuple[Seen, os.stat_result]]
"""The entry that comes in, and the directories below it that it is merged with."""


def read_names(found: Found, layer: int, descriptor: int) -> None:
    """Add the entries of a directory in one layer, below those that were found. Raises OSError."""
    with os.scandir(descriptor) as entries:
        for entry in entries:
            found.setdefault(os.fsencode(entry.name), []).append(Seen(layer, descriptor, entry))


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
