"""Turns the paths of --exclude and --include, with the shell's wildcards, into patterns of a tree.

A remote shell may have expanded them: `-e /tmp/*` arrives as one value and further words, which the old tool ignored,
and so it put the private key into the AMI. Here each further word is left out, too.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Sequence
from pathlib import Path

from amistream.cli.output import put_note
from amistream.errors import UsageError
from amistream.source.tree.patterns import Patterns
from amistream.source.tree.select import ALWAYS

_STAYING = {rule.removesuffix("/*") for rule in ALWAYS}
"""Directories that a system needs, if only as empty ones."""
_ALREADY_OUT = Patterns(ALWAYS)
_NO_TEXT = re.compile("[\ud800-\udfff]+")
"""Bytes of a name that are not UTF-8."""


def includes(volume: Path, paths: Sequence[str]) -> list[str]:
    """Patterns for the paths of --include. Raises `UsageError` for one that nothing matches."""
    return [_pattern_for(volume, path, "include") for path in paths]


def excludes(volume: Path, paths: Sequence[str], words: Sequence[str]) -> list[str]:
    """Patterns for the paths of --exclude, and for words that belong to no option.

    A mount point stays as an empty directory, as does one that a system needs. Raises `UsageError` for a path of
    --exclude that nothing matches.
    """
    patterns = [_pattern_for(volume, path, "exclude", contents=_stays(volume, path)) for path in paths]
    found = [_find(volume, word, contents=_stays(volume, word)) for word in words]
    if lost := found.count(""):
        put_note(f"note: {lost} of the words that belong to no option are no files of {volume}: they have no effect")
    # A shell may have named thousands of files of /tmp.
    return [each for each in dict.fromkeys([*patterns, *found]) if each and not _out_already(each)]


def _pattern_for(volume: Path, path: str, option: str, *, contents: bool = False) -> str:
    pattern = _find(volume, path, contents=contents)
    if not pattern:
        raise UsageError(
            "usage",
            f"cannot use --{option}: nothing in {volume} matches {path}",
            hint="the paths begin at the volume's root; leave out what is not there",
        )
    return pattern


def _find(volume: Path, path: str, *, contents: bool) -> str:
    """The pattern of a path, or of its contents; '' if there is nothing."""
    inside = "/" + path.strip("/")
    root = str(volume).rstrip("/")
    behind = "/*" if contents else ""
    if os.path.lexists(root + inside):
        return _literal(inside, wild=contents) + behind
    if glob.glob(glob.escape(root) + inside):  # noqa: PTH207 - as a shell: `*` takes no name with a dot in front
        return inside + behind
    return ""


def _stays(volume: Path, path: str) -> bool:
    inside = "/" + path.strip("/")
    return inside in _STAYING or os.path.ismount(str(volume).rstrip("/") + inside)


def _literal(text: str, *, wild: bool) -> str:
    """A pattern for the very text. In a pattern without wildcards a backslash is itself."""
    if wild or re.search(r"[*?\[]", text) or _NO_TEXT.search(text):
        text = re.sub(r"[*?\[\\]", r"\\\g<0>", text)
        return _NO_TEXT.sub(lambda found: "?" * len(found[0]), text)
    return text


def _out_already(pattern: str) -> bool:
    text = pattern.encode()
    return _ALREADY_OUT.match(text, text.rpartition(b"/")[2], directory=False) is not None
