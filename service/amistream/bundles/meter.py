"""Progress counters of copying parts, read while it runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

Note = Callable[[str], None]
"""Shows a notice to the user."""


def once(note: Note) -> Note:
    """Show each notice the first time only."""
    shown = set[str]()

    def show(text: str) -> None:
        if text not in shown:
            shown.add(text)
            note(text)

    return show


@dataclass(slots=True)
class Meter:
    """Counters of one copy; `kept` parts were already there and valid, so they were not sent or copied."""

    parts: int = 0
    parts_done: int = 0
    parts_kept: int = 0
    bytes_total: int = 0
    bytes_done: int = 0
    bytes_sent: int = 0

    def begin(self, parts: int, size: int) -> None:
        self.parts = parts
        self.bytes_total = size

    def done(self, size: int, *, kept: bool = False) -> None:
        self.parts_done += 1
        self.parts_kept += kept
        self.bytes_done += size
        self.bytes_sent += 0 if kept else size
