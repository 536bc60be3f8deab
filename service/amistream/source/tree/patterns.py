"""Patterns with the meaning that rsync's --exclude gives them. Pure.

name        that name, at any depth; `*`, `?` and `[a-z]` match within a name
a/b         these two, one below the other, at any depth
/a/b        only from the tree's root on
a/**/b, **  `**` matches any number of steps
a/          only directories
a/***       the directory and all that it holds
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

_NOTHING = b"(?!)"
_IN_A_NAME, _ANYTHING = b"[^/]*", b".*"
"""`*` and `**`."""
_WILD = frozenset(b"*?[")
_SPECIAL = re.compile(rb"[*?\[\\]")
_SLASH, _STAR, _QUESTION, _OPEN, _CLOSE, _ESCAPE, _RANGE = b"/*?[]\\-"
_NEGATIONS = frozenset(b"!^")
_CLASSES: dict[bytes, Callable[[str], bool]] = {
    b"alnum": str.isalnum,
    b"alpha": str.isalpha,
    b"blank": " \t".__contains__,
    b"cntrl": lambda each: ord(each) < 32 or ord(each) == 127,  # noqa: PLR2004 - ASCII
    b"digit": str.isdigit,
    b"graph": lambda each: each.isprintable() and each != " ",
    b"lower": str.islower,
    b"print": str.isprintable,
    b"punct": string.punctuation.__contains__,
    b"space": str.isspace,
    b"upper": str.isupper,
    b"xdigit": string.hexdigits.__contains__,
}


@dataclass(frozen=True, slots=True)
class _Pattern:
    text: str
    expression: bytes
    of_names: bool
    """It is compared with the last name of a path, else with the whole path behind a slash."""
    for_directories: bool
    for_others: bool
    last: bytes = b""
    """The last name of what it matches, or of all that it matches; empty where that has wildcards."""
    head: bytes = b""
    """The beginning of all paths that it matches, if it is known."""


def _parse(text: str) -> list[_Pattern]:
    glob = text.encode("utf-8", "surrogateescape")
    for_others = not glob.endswith(b"/") or glob == b"/"
    glob = glob.removesuffix(b"/") if not for_others else glob
    wild = bool(_WILD & set(glob))
    if b"/" not in glob and b"**" not in glob:
        expression = _expression(_pieces(glob, wild=wild))
        return [_Pattern(text, expression, True, True, for_others, b"" if wild else glob)]
    body = glob.removeprefix(b"/")
    above = body.rstrip(b"*")
    whole = body.endswith(b"***") and above.endswith(b"/")
    pieces = _pieces(above[:-1] if whole else body, wild=wild)
    if glob.startswith(b"/"):
        pieces = [b"/", *pieces]
    elif not glob.startswith(b"**"):
        pieces = [_ANYTHING, b"/", *pieces]
    head = _SPECIAL.split(b"/" + (above[:-1] if whole else body), 1)[0] if glob.startswith(b"/") else b""
    if not whole:
        last = body.rpartition(b"/")[2]
        return [_Pattern(text, _expression(pieces), False, True, for_others, b"" if wild else last, head)]
    below = _expression([*pieces, b"/", _ANYTHING])
    return [
        _Pattern(text, _expression(pieces), False, True, False, head=head),
        _Pattern(text, below, False, True, for_others, head=head),
    ]


def _pieces(glob: bytes, *, wild: bool) -> list[bytes]:
    """The glob as expressions, one for each byte or star. Without wildcards a backslash is itself, as in rsync."""
    if not wild:
        return [re.escape(glob[at : at + 1]) for at in range(len(glob))]
    pieces = []
    at = 0
    while at < len(glob):
        byte = glob[at]
        if byte == _STAR:
            end = at
            while end < len(glob) and glob[end] == _STAR:
                end += 1
            pieces.append(_IN_A_NAME if end - at == 1 else _ANYTHING)
            at = end
        elif byte == _QUESTION:
            pieces.append(b"[^/]")
            at += 1
        elif byte == _OPEN:
            found = _class(glob, at + 1)
            if found is None:
                return [_NOTHING]
            members, at = found
            each = b"".join(b"\\x%02x" % each for each in sorted(members))
            pieces.append(b"[" + each + b"]" if members else _NOTHING)
        else:
            if byte == _ESCAPE and at + 1 < len(glob):
                at += 1
            pieces.append(re.escape(glob[at : at + 1]))
            at += 1
    return pieces


def _expression(pieces: Sequence[bytes]) -> bytes:
    """One expression of the pieces. Its time does not grow with the number of its stars, but only with its length.

    Where the bytes behind a star match first is as good a place as any later one, up to the next star: no place is
    tried again (an atomic group). Else each further star would take a name's length times longer, and no other thread
    of the process runs meanwhile.
    """
    chunks = [_split(each, _IN_A_NAME) for each in _split(pieces, _ANYTHING)]
    parts = [_starred(_IN_A_NAME, list(map(b"".join, each)), ends=each is chunks[-1]) for each in chunks]
    return _starred(_ANYTHING, parts, ends=True)


def _split(pieces: Sequence[bytes], star: bytes) -> list[list[bytes]]:
    parts: list[list[bytes]] = [[]]
    for piece in pieces:
        if piece == star:
            parts.append([])
        else:
            parts[-1].append(piece)
    return parts


def _starred(star: bytes, parts: Sequence[bytes], *, ends: bool) -> bytes:
    """The parts with a star between each two. `ends`: the last part is the end of all that has to match."""
    first, *others = parts
    last = star + others.pop() if ends and others else b""
    return first + b"".join(b"(?>%s?%s)" % (star, each) for each in others) + last


def _class(glob: bytes, at: int) -> tuple[set[int], int] | None:
    """The members of a class whose inside begins at `at`, and the place behind it; None if it does not end."""
    negated = glob[at : at + 1] != b"" and glob[at] in _NEGATIONS
    at += negated
    members: set[int] = set()
    first = True
    while at < len(glob) and (glob[at] != _CLOSE or first):
        first = False
        if glob.startswith(b"[:", at) and (end := glob.find(b":]", at)) > 0:
            holds = _CLASSES.get(glob[at + 2 : end])
            if holds is None:
                return None
            members |= {byte for byte in range(128) if holds(chr(byte))}
            at = end + 2
            continue
        low, at = _member(glob, at)
        if glob[at : at + 1] == b"-" and glob[at + 1 : at + 2] not in (b"", b"]"):
            high, at = _member(glob, at + 1)
            members |= set(range(low, high + 1))
        else:
            members.add(low)
    if at >= len(glob):
        return None
    return (set(range(256)) - members if negated else members) - {_SLASH}, at + 1


def _member(glob: bytes, at: int) -> tuple[int, int]:
    if glob[at] == _ESCAPE and at + 1 < len(glob):
        at += 1
    return glob[at], at + 1


class Patterns:
    """Several patterns, each with the same effect: which of them matches first does not matter."""

    def __init__(self, texts: Iterable[str]) -> None:
        parsed = [pattern for text in texts for pattern in _parse(text)]
        self._for_directories = _Compiled(each for each in parsed if each.for_directories)
        self._for_others = _Compiled(each for each in parsed if each.for_others)

    def match(self, path: bytes, name: bytes, *, directory: bool) -> str | None:
        """The text of a pattern that matches, if one does. `path` begins with a slash and ends with `name`."""
        return (self._for_directories if directory else self._for_others).match(path, name)

    def names_in(self, folder: bytes) -> frozenset[bytes] | None:
        """Among what is in a folder, and is no directory, only these names may match; None for any name.

        `folder` begins and ends with a slash.
        """
        return self._for_others.names_in(folder)


class _Compiled:
    """Patterns for one kind of file. Nearly all files match none, so their names are looked up before all else."""

    def __init__(self, patterns: Iterable[_Pattern]) -> None:
        every = list(patterns)
        self._texts = [each.text for each in every]
        numbered = list(enumerate(every))
        self._literal = {each.last: each.text for each in every if each.of_names and each.last}
        self._ends = {each.last for each in every if not each.of_names and each.last}
        self._names = _joined((number, each) for number, each in numbered if each.of_names and not each.last)
        self._ending = _joined((number, each) for number, each in numbered if not each.of_names and each.last)
        self._paths = _joined((number, each) for number, each in numbered if not (each.of_names or each.last))
        self._heads = tuple(each.head for each in every if not (each.of_names or each.last))
        self._folders = {head[: head.rfind(b"/") + 1] for head in self._heads}
        self._known = frozenset(self._literal) | self._ends

    def names_in(self, folder: bytes) -> frozenset[bytes] | None:
        if self._names is not None or folder in self._folders or folder.startswith(self._heads):
            return None
        return self._known

    def match(self, path: bytes, name: bytes) -> str | None:
        if name in self._literal:
            return self._literal[name]
        found = self._names.fullmatch(name) if self._names else None
        if found is None and self._ending is not None and name in self._ends:
            found = self._ending.fullmatch(path)
        if found is None and self._paths is not None:
            found = self._paths.fullmatch(path)
        return self._texts[int((found.lastgroup or "_0")[1:])] if found else None


def _joined(patterns: Iterable[tuple[int, _Pattern]]) -> re.Pattern[bytes] | None:
    """One expression for all; the number of the one that matches is the name of its group."""
    chosen = [b"(?P<_%d>%s)" % (number, each.expression) for number, each in patterns]
    return re.compile(b"|".join(chosen), re.DOTALL) if chosen else None
