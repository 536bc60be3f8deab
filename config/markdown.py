"""Formats tables in Markdown."""

from __future__ import annotations

from collections.abc import Iterable


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """A table; the cells are Markdown."""
    return "\n".join([_row(head), "|---" * len(head) + "|", *map(_row, rows)]) + "\n"


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def cell(text: str) -> str:
    """The text for a cell, in which only backticks, links and emphasis by underscores are Markdown."""
    pieces = " ".join(text.replace("|", "\\|").split()).split("`")
    pieces[::2] = [each.replace("*", "\\*").replace("<", "&lt;") for each in pieces[::2]]
    return "`".join(pieces)
