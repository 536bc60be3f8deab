"""Formats tables in Markdown."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """A table; the cells are Markdown."""
    return "\n".join([_row(head), "|---" * len(head) + "|", *map(_row, rows)]) + "\n"


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def cell(text: str) -> str:
    """The text for a cell, in which only backticks, links and emphasis by underscores are Markdown."""
    pieces = " ".join(text.split()).split("`")
    pieces[::2] = [each.replace("|", "\\|").replace("*", "\\*").replace("<", "&lt;") for each in pieces[::2]]
    pieces[1::2] = [_code(each) for each in pieces[1::2]]
    return "".join(pieces)


def _code(text: str) -> str:
    """A span of code. One with a bar is HTML: not every renderer takes the backslash before a bar away again."""
    return f"<code>{escape(text, quote=False).replace('|', '&#124;')}</code>" if "|" in text else f"`{text}`"
