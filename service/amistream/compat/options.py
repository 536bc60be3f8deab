"""Options of an old command as data, and their parser.

Errors never repeat given values: a secret may be in the wrong place.
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
    """Treatment of an option."""

    TAKEN = "taken"
    IDLE = "idle"
    """Accepted, and without effect: its help says why."""
    REFUSED = "refused"
    """Known, and an error: its help says why."""
    SECRET = "secret"  # noqa: S105 - not a password: a kind of option
    """Accepted with a warning: visible in the list of processes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One option; a flag if `metavar` is empty. `ours`: amistream's name of it, for messages."""

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


def option(names: str, help: str, **more: Any) -> Option:  # noqa: A002 - argparse's word
    """Make an option; `names` as in a help: `-b, --bucket BUCKET`, the long name last."""
    words = names.split()
    metavar = "" if words[-1].startswith("-") else words.pop()
    return Option(names=tuple(word.rstrip(",") for word in words), metavar=metavar, help=help, **more)


class Given:
    """The values of a command's options, by their long names."""

    def __init__(self, values: Mapping[str, Any], options: Sequence[Option], words: Sequence[str] = ()) -> None:
        self._values = values
        self.words = tuple(words)
        """Words that belong to no option."""
        self.options = tuple(each for each in options if values.get(each.key) not in (None, False, []))
        """The given options."""

    def __getitem__(self, key: str) -> str:
        """Give the value, or ''."""
        return str(self._values.get(key) or "")

    def has(self, key: str) -> bool:
        return any(each.key == key for each in self.options)

    def several(self, key: str) -> list[str]:
        """Give the values, separated by commas or given several times."""
        return [word for text in self._values.get(key) or () for word in text.split(",") if word]


class _Parser(argparse.ArgumentParser):
    """A parser that raises its errors."""

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


def parse(
    name: str, about: str, options: Sequence[Option], words: Sequence[str], *, takes_words: bool = False
) -> Given:
    """Parse the options in `words`, which may hold further words if `takes_words`.

    Raises `UsageError`; `--help` ends the program as in argparse.
    """
    parser = make_parser(name, about, options)
    # Before anything that is required: to name that would ask for more of what is refused.
    _check_refused(name, [each for each in options if set(each.names) & set(words)])
    values, rest = parser.parse_known_args(list(words))
    unknown = next((word for word in rest if word.startswith("-") and len(word) > 1), "")
    if unknown or (rest and not takes_words):
        # Only the letter of a short option: the rest may be a value.
        unknown = unknown.partition("=")[0] if unknown.startswith("--") else unknown[:2]
        parser.error(f"unknown option {unknown}" if unknown else "an argument belongs to no option")
    given = Given(vars(values), options, rest)
    for each in given.options:
        if each.choices and given[each.key] not in each.choices:
            parser.error(f"{each.names[-1]} must be one of {', '.join(each.choices)}")
    _check_refused(name, given.options)
    return given


def _check_refused(name: str, options: Sequence[Option]) -> None:
    """Raise `UsageError` for an option that is known and not supported."""
    for each in options:
        if each.use is Use.REFUSED:
            raise UsageError("usage", f"cannot run {name}: {each.names[-1]}: {each.help}", hint=f"`{name} --help`")


def _discreet(message: str) -> str:
    """Remove values from a message of argparse."""
    return re.sub(r"(not|ignored explicit argument|ambiguous option:) '?\S+'?", r"\1 ...", message)


def in_old_words(text: str, options: Sequence[Option]) -> str:
    """Replace amistream's options in a message by those of the old command."""
    for each in options:
        if each.ours:
            text = re.sub(rf"(?<![\w-]){re.escape(each.ours)}(?![\w-])", each.names[-1], text)
    return text
