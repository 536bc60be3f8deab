"""The facts about a command, from its definition: --help, the manual pages and the manual are written from them."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from amistream.request.options import DESTINATION, IDENTITY, IMAGE, REGISTRATION, SNAPSHOT, SPEED, TREE

REST = "Options"
"""The group of options that have no group of their own."""
_ORDER = (DESTINATION, REGISTRATION, SNAPSHOT, IMAGE, TREE, IDENTITY, SPEED)
"""The groups in the order of a help; others follow, and the options of no group are the last."""
_MARKUP = re.compile(r"\[/?bold\]")
_EXAMPLE = "Example: "


class Entry(NamedTuple):
    """An option or argument: its names, the placeholder of its value ('' for a flag), and its meaning."""

    names: tuple[str, ...]
    value: str
    about: str
    default: str
    variables: tuple[str, ...]

    @property
    def term(self) -> str:
        """The names and the value, as they are typed."""
        return f"{', '.join(self.names)} {self.value}".strip()

    @property
    def meaning(self) -> str:
        """Its meaning, its default, and the variables that stand for it."""
        default = f" Default: {self.default}." if self.default else ""
        variables = f" [{', '.join(self.variables)}]" if self.variables else ""
        return f"{self.about}{default}{variables}".strip()


class CommandPage(NamedTuple):
    """Everything that a user is told about a command."""

    name: str
    """All words of it, such as `amistream fleet submit`."""
    usage: str
    paragraphs: tuple[str, ...]
    examples: tuple[str, ...]
    arguments: tuple[Entry, ...]
    groups: tuple[tuple[str, tuple[Entry, ...]], ...]
    commands: tuple[tuple[str, str], ...]
    """The commands below it, with their summaries."""

    @property
    def summary(self) -> str:
        return summary(self.paragraphs[0])

    @property
    def options(self) -> tuple[Entry, ...]:
        return tuple(entry for _, entries in self.groups for entry in entries)


def summary(text: str) -> str:
    """The first sentence of a help."""
    return text.split("\n\n", maxsplit=1)[0].split(". ", maxsplit=1)[0].rstrip(".") + "."


def page_of(command: Any, name: str) -> CommandPage:
    """The page of a command, which is the library's object; `name` is what is typed to call it."""
    paragraphs = [" ".join(each.split()) for each in _MARKUP.sub("", command.help or "").split("\n\n")]
    arguments, groups = [], dict[str, list[Entry]]()
    words = [name]
    for parameter in command.params:
        entry = _entry(parameter)
        if parameter.param_type_name == "argument":
            arguments.append(entry)
            words.append(entry.value if parameter.required or entry.value.startswith("[") else f"[{entry.value}]")
        elif not getattr(parameter, "hidden", False) and "--help" not in parameter.opts:
            groups.setdefault(getattr(parameter, "rich_help_panel", None) or REST, []).append(entry)
            if parameter.required:
                words.append(f"{parameter.opts[0]} {entry.value}")
    below = getattr(command, "commands", {})
    words.append("COMMAND ..." if below else "[OPTIONS]")
    return CommandPage(
        name=name,
        usage=" ".join(words),
        paragraphs=tuple(each for each in paragraphs if not each.startswith(_EXAMPLE)),
        examples=tuple(each.removeprefix(_EXAMPLE) for each in paragraphs if each.startswith(_EXAMPLE)),
        arguments=tuple(arguments),
        groups=tuple((title, tuple(groups[title])) for title in sorted(groups, key=_place_of)),
        commands=tuple((own, summary(each.help or "")) for own, each in below.items()),
    )


def _place_of(group: str) -> int:
    return _ORDER.index(group) if group in _ORDER else len(_ORDER) + (group == REST)


def _entry(parameter: Any) -> Entry:
    is_flag = bool(getattr(parameter, "is_flag", False))
    is_argument = parameter.param_type_name == "argument"
    names = () if is_argument else sorted((*parameter.opts, *parameter.secondary_opts), key=_short_first)
    variables = parameter.envvar or ()
    default = parameter.default if getattr(parameter, "show_default", False) is True else None
    return Entry(
        names=tuple(names),
        value="" if is_flag else parameter.metavar or parameter.name.upper(),
        about=parameter.help or "",
        default="" if is_flag else _default_text(default),
        variables=(variables,) if isinstance(variables, str) else tuple(variables),
    )


def _short_first(name: str) -> bool:
    return name.startswith("--")


def _default_text(value: object) -> str:
    if value in (None, "", (), []):
        return ""
    return f"{value:g}" if isinstance(value, int | float) else str(value)
