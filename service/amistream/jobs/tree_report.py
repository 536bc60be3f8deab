"""Reports, after the pass over a tree, which of its files moved meanwhile; and writes the file of `--report`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from amistream.host.new_file import NewFile
from amistream.ports.volume import Volume
from amistream.source.opening import tree_of
from amistream.source.tree.report import MOVED, Fate, Report


async def report_tree(volume: Volume, to: str | None, note: Callable[[str], None]) -> None:
    """Note the files that the image does not have as they are. A report that cannot be written is noted, too."""
    tree = tree_of(volume)
    if tree is None:
        return
    report = tree.report
    for fate in (*MOVED, Fate.UNREADABLE):
        if report.paths(fate):
            note(f"{report.named(fate)}: {fate.value}")
    if to is not None:
        try:
            await asyncio.to_thread(_write, report, Path(to))
        except OSError as error:
            note(f"cannot write the report {to}: {error.strerror}")


def _write(report: Report, path: Path) -> None:
    with NewFile(path, mode=0o600) as file:
        for line in report.lines():
            file.write(f"{line}\n".encode())
        file.replace()
