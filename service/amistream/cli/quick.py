"""Answers calls without loading their commands: the version, the help, the completion of words, and short questions.

They take little more time than Python itself, because nothing is loaded but this file and `commands.txt`. That file is
made from the commands by `config/generate.py`; a test keeps them alike. Each line is a title of a group of commands, or
a command with its summary, its flags, its options that take a value, and its argument, between tabs. Values that an
option or the argument can have follow it after an equals sign. A command with commands below it has its summary alone,
and they follow it under both names.
"""

from __future__ import annotations

import os

from amistream import __version__

COMMANDS_FILE = os.path.join(os.path.dirname(__file__), "commands.txt")  # noqa: PTH118, PTH120 - pathlib takes longer
DOCUMENTATION = "All topics: docs/index.md in the sources. The packages also have `man {}`."
_WIDEST = 100
_NARROWEST = 40
FULL_HELP = "--help-all"
_HELP_FLAGS = ("--help", "-h", FULL_HELP)
_OWN_OPTIONS = """
Options:
  --version   Show the version and exit.
  -h, --help  Show this message and exit.
"""
_HINT = "`amistream COMMAND --help` shows the options of a command."


def answer(arguments: list[str]) -> str | None:
    """The whole output of a call that needs no command, or None for any other."""
    if shell := os.environ.get("_AMISTREAM_COMPLETE"):
        from amistream.cli.completion import completed

        return completed(shell, rows())
    if arguments == ["--version"]:
        return f"amistream {__version__}\n"
    if not arguments or (len(arguments) == 1 and arguments[0] in _HELP_FLAGS):
        return help_text()
    if arguments[0] == "completion":
        from amistream.cli.completion import SCRIPTS

        return SCRIPTS.get(arguments[1]) if len(arguments) == 2 else None  # noqa: PLR2004 - command and shell
    if arguments[0] in ("jobs", "status"):
        from amistream.cli.quick_jobs import answer as answered

        return answered(arguments)
    return None


def help_text() -> str:
    """The help of `amistream` itself, in lines of the terminal's width."""
    width = help_width()
    lines = ["Usage: amistream COMMAND [OPTIONS] ..."]
    for name, *rest in rows():
        if not name and rest[0].startswith("Example: "):
            lines += ["", "Example:", *wrapped(rest[0].removeprefix("Example: "), width, "  ", "      ")]
        elif not name:
            lines += ["", *wrapped(rest[0], width, "", "")]
        elif not rest:
            lines += ["", f"{name}:"]
        elif " " not in name:
            lines += wrapped(rest[0], width, f"  {name:<12}", " " * 14)
    lines += [_OWN_OPTIONS, *wrapped(_HINT, width, "", ""), *wrapped(DOCUMENTATION.format("amistream"), width, "", "")]
    return "\n".join(lines) + "\n"


def rows() -> list[list[str]]:
    """The lines of `commands.txt`."""
    with open(COMMANDS_FILE, encoding="utf-8") as file:  # noqa: PTH123 - pathlib takes longer
        return [line.split("\t") for line in file.read().splitlines()]


def help_width() -> int:
    """The columns of a help: those of the terminal, within bounds in which it can be read."""
    return max(_NARROWEST, min(_WIDEST, _columns()))


def _columns() -> int:
    """The width of the terminal, as `shutil.get_terminal_size` finds it, which takes longer to load."""
    if os.environ.get("COLUMNS", "").isdecimal():
        return int(os.environ["COLUMNS"])
    try:
        return os.get_terminal_size(1).columns
    except OSError:
        return _WIDEST


def wrapped(text: str, width: int, first: str, others: str) -> list[str]:
    """Wrap as `textwrap` does, which takes longer to load."""
    lines, line = [], first
    for word in text.split():
        if line.strip() and len(line) + 1 + len(word) > width and line != first:
            lines.append(line.rstrip())
            line = others
        line += word if line in (first, others) else f" {word}"
    return [*lines, line.rstrip()]
