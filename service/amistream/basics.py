"""Sizes and words that every command needs, however short it runs: nothing else is loaded for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

OTHERS_SIGNATURE = "not checked: it is another user's"
"""The state of a signature by a key that is not at hand, as `--json` has it."""


def as_utf8(text: str) -> str:
    """The text with lone surrogates escaped: a file name need not be UTF-8, JSON and terminals require it."""
    return text.encode("utf-8", "backslashreplace").decode()


def quoted(path: Path | str) -> str:
    """The path as a word of a shell's line, for hints."""
    import shlex  # noqa: PLC0415 - for errors only

    return shlex.quote(str(path))
