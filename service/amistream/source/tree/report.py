"""Records which files of a tree the image does not have as they are, and why: for notices and `--report`. Pure."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum

_NAMED = 5
"""Names in a notice; the report has all."""


class Fate(StrEnum):
    """The changes of a file that are reported."""

    LEFT_OUT = "left out"
    CLOSED = "closed to the member of the socket's group who bundles, and left out"
    EMPTIED = "comes in empty"
    COVERED = "another kind of file lies over it"
    SPLIT = "has more names than one inode can have, and becomes several"
    MOUNTED = "another file is mounted there, and comes in"
    CHANGED = "changed while it was read"
    CUT = "grew, and was cut"
    SHRUNK = "shrank, and may end in zeros"
    GONE = "vanished or was replaced, and may be missing or zeros"
    UNREADABLE = "cannot be read, and reads as zeros"
    NOT_LISTED = "cannot be listed, and is empty"
    ATTRIBUTES = "lost extended attributes"


MOVED = (Fate.CHANGED, Fate.CUT, Fate.SHRUNK, Fate.GONE)


@dataclass(slots=True)
class Report:
    """Paths by their fate, each path once for each fate."""

    _paths: dict[Fate, dict[bytes, str]] = field(default_factory=dict)
    _kept: dict[Fate, dict[bytes, str]] = field(default_factory=dict)

    def add(self, fate: Fate, path: bytes, why: str = "") -> None:
        self._paths.setdefault(fate, {}).setdefault(path, why)

    def paths(self, *fates: Fate) -> list[bytes]:
        return sorted({path for fate in fates for path in self._paths.get(fate, ())})

    def reasons(self, fate: Fate) -> Counter[str]:
        """How many paths have each reason."""
        return Counter(self._paths.get(fate, {}).values())

    def keep(self, *fates: Fate) -> None:
        """Let what is recorded of these so far outlast `forget`."""
        self._kept = {fate: dict(self._paths.get(fate, {})) for fate in fates}

    def forget(self, *fates: Fate) -> None:
        for fate in fates:
            self._paths[fate] = dict(self._kept.get(fate, {}))

    def lines(self) -> Iterator[str]:
        """The whole report, a JSON object a line. Bytes of a name that are no UTF-8 are escaped."""
        for fate in Fate:
            for path, why in sorted(self._paths.get(fate, {}).items()):
                about = {"path": shown(path), "fate": fate.value, **({"why": why} if why else {})}
                yield json.dumps(about, ensure_ascii=False)

    def named(self, *fates: Fate) -> str:
        """How many paths have one of these fates, with the first ones named."""
        paths = self.paths(*fates)
        first = ", ".join(shown(path) for path in paths[:_NAMED])
        more = f" and {len(paths) - _NAMED} more" if len(paths) > _NAMED else ""
        return f"{len(paths)} file{'s' * (len(paths) != 1)} ({first}{more})"


def shown(path: bytes) -> str:
    """A path of the tree as text, from its root on."""
    text = "/" + path.decode("utf-8", "backslashreplace")
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)
