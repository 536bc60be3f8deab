"""Aligns text in columns."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence


def terminal_width() -> int | None:
    """The columns of the terminal that standard output is, or None for a file or a pipe."""
    if not sys.stdout.isatty():
        return None
    columns = os.environ.get("COLUMNS", "")
    return int(columns) if columns.isdecimal() and int(columns) else os.get_terminal_size(sys.stdout.fileno()).columns


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Align all columns except the last, which may have any length."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def counted(count: int, thing: str) -> str:
    return f"{count} {thing}{'s' * (count != 1)}"
