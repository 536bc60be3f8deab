"""Names of files as text: for documents and terminals, and for a shell."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def as_utf8(text: str) -> str:
    """The text with lone surrogates escaped: a file name need not be UTF-8, JSON and terminals require it."""
    return text.encode("utf-8", "backslashreplace").decode()


def quoted(path: Path | str) -> str:
    """The path as a word of a shell's line, for hints."""
    import shlex  # noqa: PLC0415 - for errors only

    return shlex.quote(str(path))
