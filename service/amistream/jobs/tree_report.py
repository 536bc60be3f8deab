"""Trees in a run: a later one finds whether files changed; each reports those that moved, and writes `--report`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from amistream.host.new_file import NewFile
from amistream.plan import TreeState
from amistream.ports.volume import Volume
from amistream.source.opening import tree_of
from amistream.source.tree.report import MOVED, Fate, Report
from amistream.values import ChangedError


def state_of(volume: Volume) -> TreeState | None:
    """The state of the tree that the volume is made of; None for other volumes."""
    tree = tree_of(volume)
    return TreeState(digest=tree.digest, newest=tree.newest) if tree is not None else None


def check_tree(before: TreeState | None, volume: Volume) -> None:
    """Raise `ChangedError` if the volume is made of a tree in another state, with the files that are newer."""
    now = state_of(volume)
    if now == before:
        return
    from amistream.source.xfs_tree.volume import CopiedVolume  # noqa: PLC0415 - loads all that makes an xfs

    tree = tree_of(volume)
    if isinstance(tree, CopiedVolume):
        raise ChangedError("its xfs is made anew in each run")
    newer = Report()
    if tree is not None and before is not None:
        for path in tree.newer_than(before.newest):
            newer.add(Fate.CHANGED, path)
    if newer.paths(Fate.CHANGED):
        raise ChangedError(f"{newer.named(Fate.CHANGED)} came or changed")
    raise ChangedError("files went")


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
