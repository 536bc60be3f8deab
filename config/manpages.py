"""Writes manual pages in roff, in the macros of man(7): from pages of commands, an argument parser, or settings."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from amistream.cli.command_page import CommandPage, Entry

SETTINGS_FILE = "/etc/amistream/amistream.toml"
_WORDS = re.compile(r"`([^`]+)`")
_SENTENCE = re.compile(r"(?<=[.;]) (?=[A-Z(])")


class Edition(NamedTuple):
    """The version and the day that stand at the foot of each page."""

    version: str
    day: str

    def page(self, name: str, section: int, summary: str, body: Iterable[str]) -> str:
        """A whole page: `name` is that of its file without the section."""
        head = f'.TH {_escaped(name).upper()} {section} "{self.day}" "amistream {self.version}" "amistream"'
        return (
            "\n".join([head, ".ad l", ".nh", ".SH NAME", f"{_escaped(name)} \\- {_plain(summary.rstrip('.'))}", *body])
            + "\n"
        )


def start_page(
    edition: Edition,
    paragraphs: Sequence[str],
    groups: Mapping[str, Sequence[CommandPage]],
    statuses: Mapping[str, str],
) -> str:
    """The page of `amistream` itself: its commands by group, and what all of them have in common."""
    body = [".SH SYNOPSIS", _bold("amistream"), "\\fICOMMAND\\fR [\\fIOPTIONS\\fR] ..."]
    body += [".SH DESCRIPTION", *_paragraphs(each for each in paragraphs if not each.startswith("Example: "))]
    body.append(".SH COMMANDS")
    for title, pages in groups.items():
        body.append(f".SS {_escaped(title)}")
        for page in pages:
            body += [".TP", f"{_bold(_file_name(page))}(1)", _text(page.summary)]
    body += [".SH OPTIONS", ".TP", _bold("--version"), "Show the version and exit.", ".TP", _bold("-h, --help")]
    body += ["Show the commands and exit.", f"{_bold('amistream')} \\fICOMMAND\\fR {_bold('--help')}"]
    body += ["shows the main options of a command,", f"{_bold('--help-all')}", "every one.", ".SH EXIT STATUS"]
    for status, meaning in statuses.items():
        body += [".TP", _bold(status), f"{_text(meaning[:1].upper() + meaning[1:])}."]
    body += [".SH FILES", ".TP", f"\\fI{_escaped(SETTINGS_FILE)}\\fR", "Settings, see", "\\fBamistream.toml\\fR(5)."]
    body += [".TP", "\\fI/run/amistream/amistream.sock\\fR", "The socket of the daemon."]
    return edition.page("amistream", 1, paragraphs[0], [*body, *_see_also("amistreamd(8)", "amistream.toml(5)")])


def command_page(edition: Edition, page: CommandPage) -> str:
    """The page of a command."""
    body = [".SH SYNOPSIS", _bold(page.usage), ".SH DESCRIPTION", *_paragraphs(page.paragraphs)]
    if page.commands:
        body.append(".SH COMMANDS")
        for name, about in page.commands:
            body += [".TP", f"{_bold(f'{_file_name(page)}-{name}')}(1)", _text(about)]
    if described := [entry for entry in page.arguments if entry.meaning]:
        body += [".SH ARGUMENTS", *_entries(described)]
    if page.groups:
        body.append(".SH OPTIONS")
        for title, entries in page.groups:
            body += [*([f".SS {_escaped(title)}"] if len(page.groups) > 1 else []), *_entries(entries)]
    body.append(".SH EXAMPLES")
    for number, example in enumerate(page.examples):
        body += [*([".PP"] if number else []), ".nf", f".RS 4\n{_line(example)}\n.RE", ".fi"]
    return edition.page(_file_name(page), 1, page.summary, [*body, *_see_also("amistream(1)", "amistreamd(8)")])


def daemon_page(edition: Edition, parser: argparse.ArgumentParser) -> str:
    """The page of `amistreamd`."""
    body = [
        ".SH SYNOPSIS",
        _bold("amistreamd"),
        "[\\fIOPTIONS\\fR]",
        ".SH DESCRIPTION",
        _text(parser.description or ""),
    ]
    body.append(".SH OPTIONS")
    for action in parser._actions:  # noqa: SLF001 - there is no other way to them
        value = f" \\fI{_escaped(action.metavar)}\\fR" if isinstance(action.metavar, str) else ""
        body += [".TP", _bold(", ".join(action.option_strings)) + value]
        body.append(_text(_sentence(action.help or "")))
    examples, _, rest = (parser.epilog or "").partition("\n\n")
    body += [".SH EXAMPLES", ".nf", ".RS 4", *(_line(each.strip()) for each in examples.splitlines()[1:]), ".RE", ".fi"]
    body += [".SH NOTES", *_paragraphs([" ".join(rest.split())])]
    see = _see_also("amistream(1)", "amistream.toml(5)")
    return edition.page("amistreamd", 8, (parser.description or "").split(". ")[0], [*body, *see])


def settings_page(edition: Edition, about: str, sections: Mapping[str, Sequence[tuple[str, str, str]]]) -> str:
    """The page of the settings: each has its name, its default as in the file, and its meaning."""
    body = [".SH DESCRIPTION", *_paragraphs(about.split("\n\n"))]
    for title, settings in sections.items():
        body.append(f".SH {_escaped(title).upper()}")
        for name, default, meaning in settings:
            body += [".TP", f"{_bold(name)} = {_plain(default)}", _text(meaning)]
    see = _see_also("amistream(1)", "amistreamd(8)")
    return edition.page(
        "amistream.toml", 5, "settings of amistream", [*body, ".SH FILES", _escaped(SETTINGS_FILE), *see]
    )


def _entries(entries: Iterable[Entry]) -> Iterable[str]:
    for entry in entries:
        value = f"\\fI{_escaped(entry.value)}\\fR" if entry.value else ""
        yield from (
            ".TP",
            " ".join(each for each in (_bold(", ".join(entry.names)), value) if each),
            _text(entry.meaning),
        )


def _paragraphs(paragraphs: Iterable[str]) -> Iterable[str]:
    for number, paragraph in enumerate(paragraphs):
        yield from ((".PP",) if number else ())
        yield _text(paragraph)


def _see_also(*names: str) -> list[str]:
    found = [re.sub(r"(.*)(\(\d\))", lambda each: f"{_bold(each[1])}{each[2]}", name) for name in names]
    return [".SH SEE ALSO", ",\n".join(found)]


def _file_name(page: CommandPage) -> str:
    return page.name.replace(" ", "-")


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:].rstrip(".") + "."


def _bold(text: str) -> str:
    return f"\\fB{_escaped(text)}\\fR" if text else ""


def _text(text: str) -> str:
    """Prose: a line for each sentence, words between backquotes in bold."""
    return "\n".join(_plain(each) for each in _SENTENCE.split(text))


def _plain(text: str) -> str:
    return _line(_WORDS.sub(r"\\fB\1\\fR", text.replace("\\", "\\e")), escape="")


def _line(text: str, *, escape: str = "\\") -> str:
    """A line that is none of the macros'."""
    made = _escaped(text, escape=escape)
    return f"\\&{made}" if made.startswith((".", "'")) else made


def _escaped(text: str, *, escape: str = "\\") -> str:
    text = text.replace(escape, "\\e") if escape else text
    text = text.replace("-", "\\-").replace("'", "\\(aq").replace("`", "\\(ga").replace('"', "\\(dq")
    return "".join(each if each.isascii() else f"\\[u{ord(each):04X}]" for each in text)
