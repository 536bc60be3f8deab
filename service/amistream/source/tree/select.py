"""Selects what of a tree comes into the image, and says by which rule the rest does not. Pure.

In order: the job's own files never come in; what `include` names comes in; `exclude`, the categories of `clean`, and
the rules for every system leave out. A directory that is left out goes with all that it holds, so `include` has to name
the directories above a file that an outer rule leaves out, as with rsync.
"""

from __future__ import annotations

import stat
from collections.abc import Mapping, Sequence

from amistream.source.tree.categories import CATEGORIES, SECRETS
from amistream.source.tree.patterns import Patterns

ALWAYS = ("/dev/*", "/proc/*", "/sys/*", "/run/*", "/mnt/*", "/media/*", "/tmp/*", "/var/tmp/*")  # noqa: S108 - names
"""The contents of these directories do not last, or are other disks; the directories stay."""

_HOST_KEYS = Patterns(["/etc/ssh/ssh_host_*_key"])
"""Kept: without them sshd does not start where nothing makes new ones."""


class Selection:
    """The rules of one job."""

    def __init__(self, *, include: Sequence[str] = (), exclude: Sequence[str] = (), clean: Sequence[str] = ()) -> None:
        self._include = Patterns(include) if include else None
        self._exclude = Patterns(exclude)
        left_out = {name: CATEGORIES[name].left_out for name in clean}
        self._left_out = _by_category(left_out)
        self._files = _by_category({name: CATEGORIES[name].files for name in clean})
        self._emptied = _by_category({name: CATEGORIES[name].emptied for name in clean})
        self.empties_any = bool(self._emptied)
        """`empties` has rules."""
        self._kept = Patterns(pattern for name in clean for pattern in CATEGORIES[name].kept)
        self._always = Patterns(ALWAYS)
        self._any = Patterns([*exclude, *(pattern for each in left_out.values() for pattern in each), *ALWAYS])
        """All that leave out, at once: most paths match none."""
        self.looks_at_content = SECRETS in clean
        """The contents of regular files decide, too: `leaves_out_key`."""

    def leaves_out(self, path: bytes, name: bytes, kind: int) -> str:
        """The rule that leaves out a path of the tree, which begins with a slash; '' if it comes in."""
        directory = kind == stat.S_IFDIR
        found = ""
        if self._any.match(path, name, directory=directory) is not None:
            if (rule := self._exclude.match(path, name, directory=directory)) is not None:
                found = f"--exclude {rule}"
            elif rule := _category_of(self._left_out, path, name, directory=directory):
                found = rule
            elif (rule := self._always.match(path, name, directory=directory)) is not None:
                found = f"always: {rule}"
            if found and self._included(path, name, directory=directory):
                found = ""
        if not found and kind == stat.S_IFREG and self._files:
            return self._leaves_out_file(path, name)
        return found

    def suspects(self, folder: bytes) -> frozenset[bytes] | None:
        """The names of files in a folder that a rule may leave out or empty; None for any name.

        `folder` begins and ends with a slash. The rules by content are others.
        """
        found: frozenset[bytes] = frozenset()
        for patterns in (self._any, *self._files.values(), *self._emptied.values()):
            if (names := patterns.names_in(folder)) is None:
                return None
            found |= names
        return found

    def _leaves_out_file(self, path: bytes, name: bytes) -> str:
        """The rule that leaves out a regular file in a place where all else stays, or ''."""
        found = _category_of(self._files, path, name)
        if not found or self.empties(path, name) or self._included(path, name, directory=False):
            return ""
        return "" if self._kept.match(path, name, directory=False) is not None else found

    def empties(self, path: bytes, name: bytes) -> str:
        """The rule by which a path that is no directory comes in as an empty file, or ''."""
        found = _category_of(self._emptied, path, name)
        return "" if not found or self._included(path, name, directory=False) else found

    def leaves_out_key(self, path: bytes, name: bytes, words: str) -> str:
        """The rule that leaves out a file that holds a private key, which is named in `words`."""
        if self._included(path, name, directory=False):
            return ""
        if _HOST_KEYS.match(path, name, directory=False) is not None:
            return ""
        return f"--clean {SECRETS}: {words}"

    def _included(self, path: bytes, name: bytes, *, directory: bool) -> bool:
        return self._include is not None and self._include.match(path, name, directory=directory) is not None


def _by_category(patterns: Mapping[str, Sequence[str]]) -> dict[str, Patterns]:
    return {category: Patterns(each) for category, each in patterns.items() if each}


def _category_of(categories: Mapping[str, Patterns], path: bytes, name: bytes, *, directory: bool = False) -> str:
    """The rule of the category that a path belongs to, or ''."""
    for category, patterns in categories.items():
        if patterns.match(path, name, directory=directory) is not None:
            return f"--clean {category}"
    return ""
