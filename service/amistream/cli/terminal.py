"""The terminal behind a stream: its width, its colours, and lines that are folded between words.

A stream that is no terminal gets its lines as they are, without colours.
"""

from __future__ import annotations

import os
import re
from typing import TextIO

STYLES = {"good": "32", "bad": "1;31", "careful": "33", "faint": "2"}
_RESET = "\x1b[0m"
_GAP = re.compile(r"\s{2,}(?=\S)")
_WIDEST_INDENT = 32
_AS_THEY_ARE = ("{", "[", "#")
"""Beginnings of lines for machines, which are never folded: JSON, and comments of a configuration."""


def width_of(stream: TextIO) -> int:
    """The columns of the terminal; 0 if there is none, or its width is not known."""
    if not _is_terminal(stream):
        return 0
    if (columns := os.environ.get("COLUMNS", "")).isdecimal():
        return int(columns)
    try:
        return os.get_terminal_size(stream.fileno()).columns
    except OSError:
        return 0


def has_colours(stream: TextIO) -> bool:
    return (
        _is_terminal(stream) and not os.environ.get("NO_COLOR") and os.environ.get("TERM", "dumb") not in {"", "dumb"}
    )


def painted(text: str, style: str) -> str:
    """The text in one of `STYLES`."""
    return f"\x1b[{STYLES[style]}m{text}{_RESET}"


def folded(text: str, width: int) -> str:
    """Fold long lines between words; the rest of a line stands below its last column. A width of 0 folds nothing."""
    if not width:
        return text
    return "\n".join(line if _fits(line, width) else _fold(line, width) for line in text.split("\n"))


def _fits(line: str, width: int) -> bool:
    return len(line) <= width or line.startswith(_AS_THEY_ARE)


def _fold(line: str, width: int) -> str:
    import textwrap  # most lines fit, and quick commands load little

    longest = max(map(len, line.split()))
    most = min(width // 2, _WIDEST_INDENT, width - longest)
    lead = len(line) - len(line.lstrip())
    indent = max((gap.end() for gap in _GAP.finditer(line) if gap.end() <= most), default=lead)
    rest = textwrap.wrap(
        line[indent:],
        max(1, width - indent),
        break_long_words=False,
        break_on_hyphens=False,
        expand_tabs=False,
        replace_whitespace=False,
    )
    return line[:indent] + f"\n{'':{indent}}".join(rest)


def _is_terminal(stream: TextIO) -> bool:
    try:
        return stream.isatty()
    except ValueError:  # it is closed
        return False
