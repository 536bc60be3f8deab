"""The help of a command as text: the same with every version of the library, and whole at every width.

A command with many options shows the main ones; `--help-all` and its manual page show every one.
"""

from __future__ import annotations

import re

from amistream.cli.command_page import CommandPage, summary
from amistream.cli.quick import DOCUMENTATION, FULL_HELP, help_width, wrapped

MANY = 20
"""Options that a help shows without a choice."""
MAIN = frozenset(
    {
        *("--to", "--region", "--ami-name", "--register"),
        *("--cert", "--private-key", "--source-profile"),
        *("--live", "--freeze", "--exclude", "--clean"),
        *("--compress", "--limit-upload", "--volume-size", "--encrypted", "--every"),
        *("--dry-run", "--detach", "--in-process", "--json", "--quiet", "--verbose"),
    }
)
"""The options that a command with many shows, each by the begin of its meaning."""
_VALUED = re.compile(r"(--?[a-z][a-z-]*) (?=[^-\s])")
_COLUMN = 26
_NARROW = 70
"""Below this width a meaning stands under its option, not beside it."""


def help_of(page: CommandPage, *, whole: bool = False) -> str:
    """The help of a command, as wide as the terminal."""
    width = help_width()
    short = len(page.options) > MANY and not whole
    lines = [*wrapped(page.paragraphs[0], width, "", ""), "", *_command_lines(page.usage, width, "Usage: ")]
    for paragraph in page.paragraphs[1:]:
        lines += [] if short else ["", *wrapped(paragraph, width, "", "")]
    if page.examples:
        lines += ["", "Examples:" if len(page.examples) > 1 else "Example:"]
        lines += [line for example in page.examples for line in _shell_lines(example, width)]
    for title, terms in _sections(page, short=short):
        lines += ["", f"{title}:"]
        lines += [line for term, meaning in terms for line in _described(term, meaning, width)]
    if page.commands:
        lines += ["", *wrapped(f"`{page.name} COMMAND --help` shows the options of a command.", width, "", "")]
    return "\n".join([*lines, "", *wrapped(DOCUMENTATION.format(page.name.replace(" ", "-")), width, "", "")])


def _sections(page: CommandPage, *, short: bool) -> list[tuple[str, list[tuple[str, str]]]]:
    """The titles with their terms and meanings; the last one has the options about help."""
    sections = [("Arguments", [(entry.term, entry.meaning) for entry in page.arguments if entry.meaning])]
    sections.append(("Commands", [*page.commands]))
    for title, entries in page.groups:
        shown = [entry for entry in entries if not short or MAIN & {*entry.names}]
        sections.append(
            (title, [(entry.term, summary(entry.about.split("; ")[0]) if short else entry.meaning) for entry in shown])
        )
    about_help = [("-h, --help", "Show this message and exit.")]
    if short:
        about_help.append((FULL_HELP, f"Show all {len(page.options)} options and exit."))
    sections.append(("Help", about_help))
    return [(title, terms) for title, terms in sections if terms]


def _described(term: str, meaning: str, width: int) -> list[str]:
    """A term and its meaning, which begins on the next line if the term is long or the terminal narrow."""
    if width < _NARROW:
        return [f"  {term}", *wrapped(meaning, width, " " * 6, " " * 6)]
    if len(term) > _COLUMN - 4:
        return [f"  {term}", *wrapped(meaning, width, " " * _COLUMN, " " * _COLUMN)]
    return wrapped(meaning, width, f"  {term:<{_COLUMN - 2}}", " " * _COLUMN)


def _shell_lines(line: str, width: int) -> list[str]:
    """A line for a shell, continued with backslashes where it does not fit."""
    found = _command_lines(line, width - 2, "  ")
    return [*(f"{each} \\" for each in found[:-1]), found[-1]]


def _command_lines(line: str, width: int, first: str) -> list[str]:
    """A command in lines that do not part an option from its value."""
    found = wrapped(_VALUED.sub("\\1\\0", line), width, first, " " * (len(first) + 4))
    return [each.replace("\0", " ") for each in found]
