"""Writes the page of the manual that lists every command with its options, in Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from amistream.cli.command_page import CommandPage, Entry
from config.markdown import cell, table

HEAD = """\
# Commands

Every command with its options, as `amistream COMMAND --help-all` and the manual pages (`man amistream-COMMAND`) show
them. Variables that stand for an option are in brackets. Made by `config/generate.py` from the commands.
"""


def commands_page(groups: Mapping[str, Sequence[CommandPage]], elsewhere: Mapping[str, str]) -> str:
    """`elsewhere` are the links to the options of commands that have a page of their own, by the commands' names."""
    return "\n".join([HEAD, *(_section(page, elsewhere) for pages in groups.values() for page in pages)])


def _section(page: CommandPage, elsewhere: Mapping[str, str]) -> str:
    name = page.name.removeprefix("amistream ")
    lines = [f"## {name}", "", *(f"{each}\n" for each in page.paragraphs), f"Usage: `{page.usage}`", ""]
    if page.examples:
        lines += ["Examples:", "", *(f"    {each}" for each in page.examples), ""]
    if link := elsewhere.get(name):
        lines += [f"Options: [{link}]({link}).", ""]
    elif entries := [*(entry for entry in page.arguments if entry.meaning), *page.options]:
        lines.append(table(("option", "meaning"), map(_row, entries)))
    return "\n".join(lines)


def _row(entry: Entry) -> tuple[str, str]:
    names = ", ".join(f"`{each}`" for each in entry.names)
    value = cell(f"`{entry.value}`") if entry.value else ""
    return " ".join(each for each in (names, value) if each), cell(entry.meaning)
