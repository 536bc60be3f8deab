"""Answers calls without loading their commands: the version, the help, the completion of words, and short questions.

They take little more time than Python itself, because nothing is loaded but this file and `commands.txt`. That file is
made from the commands by `config/generate.py`; a test keeps them alike. Each line is a title of a group of commands, or
a command with its summary, its flags, and its options that take a value, between tabs. One with commands below it has
its summary alone.
"""

from __future__ import annotations

import os

from amistream import __version__

COMMANDS_FILE = os.path.join(os.path.dirname(__file__), "commands.txt")  # noqa: PTH118, PTH120 - pathlib takes longer
_WIDEST = 100
_NARROWEST = 40
_HELP_FLAGS = ("--help", "-h")
_OWN_FLAGS = ("--version", "--install-completion", "--show-completion", "--help")
_OWN_OPTIONS = """
Options:
  --version             Show the version and exit.
  --install-completion  Install completion of words for the current shell.
  --show-completion     Show that completion, to copy it.
  -h, --help            Show this message and exit.

`amistream COMMAND --help` shows the options of a command."""


def answer(arguments: list[str]) -> str | None:
    """The whole output of a call that needs no command, or None for any other."""
    if shell := os.environ.get("_AMISTREAM_COMPLETE"):
        return _completed(shell)
    if arguments == ["--version"]:
        return f"amistream {__version__}\n"
    if len(arguments) == 1 and arguments[0] in _HELP_FLAGS:
        return help_text()
    if arguments[:1] in (["jobs"], ["status"]):
        from amistream.cli.quick_jobs import answer as answered

        return answered(arguments)
    return None


def help_text() -> str:
    """The help of `amistream` itself, in lines of the terminal's width."""
    width = max(_NARROWEST, min(_WIDEST, _columns()))
    lines = ["Usage: amistream COMMAND [OPTIONS] ..."]
    for name, *rest in _rows():
        if not name:
            lines += ["", *_wrapped(rest[0], width, "", "")]
        elif not rest:
            lines += ["", f"{name}:"]
        else:
            lines += _wrapped(rest[0], width, f"  {name:<12}", " " * 14)
    return "\n".join([*lines, _OWN_OPTIONS]) + "\n"


def _rows() -> list[list[str]]:
    with open(COMMANDS_FILE, encoding="utf-8") as file:  # noqa: PTH123 - pathlib takes longer
        return [line.split("\t") for line in file.read().splitlines()]


def _columns() -> int:
    """The width of the terminal, as `shutil.get_terminal_size` finds it, which takes longer to load."""
    if os.environ.get("COLUMNS", "").isdecimal():
        return int(os.environ["COLUMNS"])
    try:
        return os.get_terminal_size(1).columns
    except OSError:
        return _WIDEST


def _wrapped(text: str, width: int, first: str, others: str) -> list[str]:
    """Wrap as `textwrap` does, which takes longer to load."""
    lines, line = [], first
    for word in text.split():
        if line.strip() and len(line) + 1 + len(word) > width and line != first:
            lines.append(line.rstrip())
            line = others
        line += word if line in (first, others) else f" {word}"
    return [*lines, line.rstrip()]


def _completed(shell: str) -> str | None:
    """The completion that the script of a shell asks for, in the form that typer's scripts take."""
    if shell == "complete_bash":
        words = os.environ.get("COMP_WORDS", "").split()
        number = os.environ.get("COMP_CWORD", "")
        at = int(number) if number.isdecimal() else len(words)
        before, begun = words[1:at], words[at] if at < len(words) else ""
    elif shell in ("complete_zsh", "complete_fish"):
        line = os.environ.get("_TYPER_COMPLETE_ARGS", "")
        words = line.split()[1:]
        begun = words.pop() if words and not line.endswith(" ") else ""
        before = words
    else:
        return None
    choices = _choices(before, begun)
    if choices is None:
        return None
    found = [(word, about) for word, about in choices if word.startswith(begun)]
    if shell == "complete_bash":
        return "".join(f"{word}\n" for word, _ in found)
    if shell == "complete_fish":
        if os.environ.get("_TYPER_COMPLETE_FISH_ACTION") == "is-args":
            raise SystemExit(0 if found else 1)
        return "".join(f"{word}\t{about}\n" if about else f"{word}\n" for word, about in found)
    if not found:
        return "_files\n"
    pairs = "\n".join(f'"{word}":"{_for_zsh(about)}"' if about else f'"{word}"' for word, about in found)
    return f"_arguments '*: :(({pairs}))'\n"


def _choices(before: list[str], begun: str) -> list[tuple[str, str]] | None:
    """The words that may come behind those before, each with what it is about; none where a value or a file comes.

    None for those behind a command with commands below it.
    """
    commands = {name: rest for name, *rest in _rows() if name and rest}
    command = next((word for word in before if word in commands), None)
    if command is None:
        if begun.startswith("-"):
            return [(each, "") for each in _OWN_FLAGS]
        return [(name, rest[0]) for name, rest in commands.items()]
    if len(commands[command]) == 1:
        return None
    _, flags, valued = commands[command]
    if not begun.startswith("-") or before[-1] in valued.split():
        return []
    return [(each, "") for each in (*valued.split(), *flags.split()) if each.startswith("--")]


def _for_zsh(text: str) -> str:
    for character, instead in (('"', '""'), ("'", "''"), ("$", "\\$"), ("`", "\\`"), (":", "\\\\:")):
        text = text.replace(character, instead)
    return text
