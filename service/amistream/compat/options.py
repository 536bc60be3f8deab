"""What an old command takes: its options as data, and the way from words to values.

Nothing that was given is ever repeated in an error: a secret may stand where it does not belong.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NoReturn

from amistream import __version__
from amistream.errors import UsageError


class Use(StrEnum):
    """What becomes of an option."""

    TAKEN = "taken"
    IDLE = "idle"
    """Accepted, and without effect: its help says why."""
    REFUSED = "refused"
    """Known, and an error: its help says why."""
    SECRET = "secret"  # noqa: S105 - no password: the word for one
    """Taken, and warned about: who lists the processes of the machine sees it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One option. Without a `metavar` it is a flag. `ours` is amistream's own name of it, for messages."""

    names: tuple[str, ...]
    help: str
    metavar: str = ""
    use: Use = Use.TAKEN
    required: bool = False
    repeated: bool = False
    choices: tuple[str, ...] = ()
    ours: str = ""

    @property
    def key(self) -> str:
        return self.names[-1].lstrip("-")

    @property
    def spelled(self) -> str:
        return " ".join(filter(None, (", ".join(self.names), self.metavar)))


def option(names: str, help: str, **more: Any) -> Option:  # noqa: A002 - argparse's word
    """`names` as a help shows them: `-b, --bucket BUCKET`; the last name is the long one."""
    words = names.split()
    metavar = "" if words[-1].startswith("-") else words.pop()
    return Option(names=tuple(word.rstrip(",") for word in words), metavar=metavar, help=help, **more)


class Given:
    """The values of a command's options, by their long names."""

    def __init__(self, values: Mapping[str, Any], options: Sequence[Option]) -> None:
        self._values = values
        self.options = tuple(each for each in options if values.get(each.key) not in (None, False, []))
        """Those that were given."""

    def __getitem__(self, key: str) -> str:
        """What was given, or ''."""
        return str(self._values.get(key) or "")

    def has(self, key: str) -> bool:
        return any(each.key == key for each in self.options)

    def several(self, key: str) -> list[str]:
        """What was given with a comma in between, or several times."""
        return [word for text in self._values.get(key) or () for word in text.split(",") if word]


class _Parser(argparse.ArgumentParser):
    """One that raises its errors."""

    def error(self, message: str) -> NoReturn:
        raise UsageError("usage", f"cannot run {self.prog}: {_discreet(message)}", hint=f"`{self.prog} --help`")


def make_parser(name: str, about: str, options: Sequence[Option]) -> argparse.ArgumentParser:
    parser = _Parser(prog=name, description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    for each in options:
        about_it = each.help.replace("%", "%%")
        if each.key == "version":
            parser.add_argument(
                *each.names, action="version", version=f"{name} of amistream {__version__}", help=about_it
            )
        elif each.key == "manual":
            parser.add_argument(*each.names, action="help", help=about_it)
        elif not each.metavar:
            parser.add_argument(*each.names, dest=each.key, action="store_true", help=about_it)
        else:
            parser.add_argument(
                *each.names,
                dest=each.key,
                metavar=each.metavar,
                required=each.required,
                action="append" if each.repeated else "store",
                help=about_it,
            )
    return parser


def parse(name: str, about: str, options: Sequence[Option], words: Sequence[str]) -> Given:
    """The values of the options in `words`. Raises `UsageError`; `--help` ends the program as argparse does."""
    parser = make_parser(name, about, options)
    values, rest = parser.parse_known_args(list(words))
    if rest:
        unknown = next((word for word in rest if word.startswith("-") and len(word) > 1), "")
        # Of a short one no more than its letter: what follows may be a value.
        unknown = unknown.partition("=")[0] if unknown.startswith("--") else unknown[:2]
        parser.error(f"there is no option {unknown}" if unknown else "there is a word that belongs to no option")
    given = Given(vars(values), options)
    for each in given.options:
        if each.choices and given[each.key] not in each.choices:
            parser.error(f"{each.names[-1]} is one of {', '.join(each.choices)}")
        if each.use is Use.REFUSED:
            parser.error(f"{each.names[-1]}: {each.help}")
    return given


def _discreet(message: str) -> str:
    """What argparse says, without what it says of values."""
    return re.sub(r"(not|ignored explicit argument|ambiguous option:) '?\S+'?", r"\1 ...", message)


def in_old_words(text: str, options: Sequence[Option]) -> str:
    """A message that names options of amistream, with the names that the old command has for them."""
    for each in options:
        if each.ours:
            text = re.sub(rf"(?<![\w-]){re.escape(each.ours)}(?![\w-])", each.names[-1], text)
    return text
