"""Parses the menu of GRUB 2: grub.cfg, its environment block, and the entries of the Boot Loader Specification.

Pure: text in, entries out. Of the language of grub.cfg only what menus use counts: each branch of an `if` is taken.
Raises `DoubtError` where variables make more of a menu than memory should hold.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice, pairwise

from amistream.source.disks.reading import DoubtError

_DEEPEST = 32
_MOST_DIGITS = 6
_LONGEST = 4096
"""Characters of a value; Linux takes 4095 of a command line."""
_MOST_WORDS = 100_000
"""Words of all command lines and initrds of a menu, with the values of variables. Guess: 100 kernels have 2,000."""
_LINUX = {"linux", "linux16", "linuxefi"}
_INITRD = {"initrd", "initrd16", "initrdefi"}
_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel's file, and its command line. Both may hold variables (`$name`) that are known only at boot."""

    path: str
    arguments: tuple[str, ...]


@dataclass(slots=True)
class Entry:
    """An entry of the menu, or a submenu with further ones."""

    title: str
    id: str = ""
    kernels: list[Kernel] = field(default_factory=list)
    """Several where a condition chooses."""
    initrds: list[str] = field(default_factory=list)
    searched: list[str] = field(default_factory=list)
    """The ids of the file systems that GRUB looks for, as UUIDs."""
    entries: list[Entry] = field(default_factory=list)


@dataclass(slots=True)
class Menu:
    variables: dict[str, str] = field(default_factory=dict)
    """The last value of each, as the file sets them."""
    top: Entry = field(default_factory=lambda: Entry(""))
    """Its entries are those of the menu."""
    has_blscfg: bool = False
    """It takes the entries from the files of the Boot Loader Specification."""
    words_taken: int = 0

    def split(self, text: str) -> list[str]:
        """Expand, and split into words. A word that is a variable without a value is none, as for GRUB."""
        words = [word for word in _expanded(text, self.variables).split() if not _VARIABLE.fullmatch(word)]
        self.words_taken += len(words)
        if self.words_taken > _MOST_WORDS:
            raise DoubtError(f"the menu of GRUB has more than {_MOST_WORDS} words")
        return words


def parse_menu(text: str, environment: Mapping[str, str]) -> Menu:
    """Parse grub.cfg; `environment` has the variables of grubenv."""
    menu = Menu(variables=dict(environment))
    # One for each open brace; the innermost takes the commands.
    stack = [menu.top]
    for line in text.splitlines():
        words = _words(line)
        if not words:
            continue
        innermost = stack[-1]
        if words[0] in ("menuentry", "submenu") and len(stack) < _DEEPEST:
            innermost = Entry("".join(words[1:2]), _id(words))
            stack[-1].entries.append(innermost)
        else:
            _command(menu, innermost, words[0], words[1:])
        if words[-1] == "{" and len(stack) < _DEEPEST:
            stack.append(innermost)
        elif words[0] == "}" and len(stack) > 1:
            stack.pop()
    return menu


def _command(menu: Menu, entry: Entry, command: str, words: list[str]) -> None:
    if command == "set" and words:
        _set(menu, words[0])
    elif command == "blscfg":
        menu.has_blscfg = True
    elif command == "search":
        entry.searched += _searched(words)
    elif command in _LINUX and words:
        entry.kernels.append(Kernel(_path(words[0]), tuple(menu.split(" ".join(words[1:])))))
    elif command in _INITRD:
        entry.initrds += map(_path, menu.split(" ".join(words)))


def default_entry(menu: Menu, bls: Iterable[Entry] = ()) -> Entry | None:
    """The entry that boots if nobody chooses: that of `default`, else the first one. `bls` has those of other files."""
    entries = [*bls, *menu.top.entries] if menu.has_blscfg else menu.top.entries
    wanted = _expanded(menu.variables.get("default", "0"), menu.variables)
    for step in wanted.split(">"):
        chosen = _chosen(entries, step)
        if chosen is None:
            break
        if not chosen.entries:
            return chosen
        entries = chosen.entries
    return _first(entries)


def parse_environment(text: str) -> dict[str, str]:
    """Parse grubenv: NAME=VALUE lines, with a backslash before a character that would mean something."""
    pairs = (line.partition("=") for line in text.splitlines() if not line.startswith("#"))
    return {name: re.sub(r"\\(.)", r"\1", value) for name, equals, value in pairs if equals}


def parse_bls(name: str, text: str, menu: Menu) -> Entry:
    """Parse one entry of the Boot Loader Specification; `name` is that of its file, without .conf."""
    entry = Entry("", name)
    path, options = "", ""
    for line in text.splitlines():
        key, _, value = line.strip().partition(" ")
        value = value.strip()
        if key == "title":
            entry.title = value
        elif key == "linux":
            path = _path(value)
        elif key == "initrd":
            entry.initrds += map(_path, menu.split(value))
        elif key == "options":
            options += f" {value}"
    if path:
        entry.kernels.append(Kernel(path, tuple(menu.split(options))))
    return entry


def newest_first(names: Iterable[str]) -> list[str]:
    """Names of entries, the highest version first, numbers compared as numbers."""

    def parts(name: str) -> list[tuple[int, int, str]]:
        return [
            (1, int(each[:18]), "") if each.isdecimal() else (0, 0, each) for each in re.findall("[0-9]+|[^0-9]+", name)
        ]

    return sorted(names, key=parts, reverse=True)


def is_variable(text: str) -> bool:
    """The text has a variable that is known only at boot."""
    return _VARIABLE.search(text) is not None


def _words(line: str) -> list[str]:
    try:
        return shlex.split(line, comments=True)
    except ValueError:
        return line.split()


def _id(words: list[str]) -> str:
    for option, value in pairwise(words):
        if option in ("--id", "$menuentry_id_option", "${menuentry_id_option}"):
            return value
    return ""


def _set(menu: Menu, text: str) -> None:
    name, _, value = text.partition("=")
    # The branch for a choice that goes for one boot alone.
    if name == "default" and "next_entry" in value:
        return
    menu.variables[name] = _expanded(value, menu.variables)


def _searched(words: list[str]) -> Iterator[str]:
    """The id of `search --fs-uuid`, in its last word or behind the option."""
    if "--fs-uuid" in words or "-u" in words:
        plain = [word for word in words if not word.startswith("-")]
        if plain and not is_variable(plain[-1]):
            yield plain[-1]


def _path(word: str) -> str:
    """The path without a device such as (hd0,msdos1) or ($root) in front."""
    return re.sub(r"^\([^)]*\)", "", word)


def _expanded(text: str, variables: Mapping[str, str]) -> str:
    """Replace the variables that have a value; the others stay, for nothing here knows them."""
    return _VARIABLE.sub(lambda match: variables.get(match[1] or match[2], match[0]), text[:_LONGEST])[:_LONGEST]


def _chosen(entries: list[Entry], wanted: str) -> Entry | None:
    if wanted.isdecimal():
        return next(islice(entries, int(wanted[:_MOST_DIGITS]), None), None)
    return next((each for each in entries if wanted and wanted in (each.id, each.title)), None)


def _first(entries: list[Entry]) -> Entry | None:
    for entry in entries:
        if not entry.entries:
            return entry
        if found := _first(entry.entries):
            return found
    return None
