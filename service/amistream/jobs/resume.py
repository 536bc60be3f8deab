"""Finds where a pass begins: anew, or behind the parts that an earlier pass under the same key has stored.

Nothing here asks the volume or a destination: its data was found by the preflight, the parts proved by `proof`.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import takewhile

from amistream.jobs.records import SealedPart
from amistream.plan import Bundling, Resumption
from amistream.values import ChangedError, Extent


def resumption(bundling: Bundling, parts: Sequence[SealedPart]) -> Resumption:
    """The last checkpoint before which no part is missing, with the compression levels of all sealed parts."""
    stored = takewhile(lambda each: each[1].stored and each[1].digest.index == each[0], enumerate(parts))
    whole = [part for _, part in stored]
    while whole and whole[-1].mark.checkpoint is None:
        whole.pop()
    return Resumption(
        mtime=bundling.mtime,
        checkpoint=whole[-1].mark.checkpoint if whole else None,
        parts=tuple(part.digest for part in whole),
        levels={number: level for part in parts for number, level in part.mark.levels.items() if level},
    )


def check_volume(bundling: Bundling, size: int, data: Sequence[Extent], tree: str = "") -> None:
    """Raise `ChangedError` when the volume has another size than settled, or data outside of what the plan reads.

    Such data would never be read. Data that went is no matter: its place is read, hashed and compared. `tree` is
    the digest of a tree's plan: another one means another image.
    """
    if bundling.tree != tree:
        raise ChangedError("files came, went, or were written to")
    if bundling.image_size != size:
        raise ChangedError(f"it had {bundling.image_size} bytes and has {size}")
    plan = bundling.plan
    planned = plan.extents if plan.used is None else plan.used
    if planned is None:
        return
    for extent in data:
        number = bisect_right(planned, extent.offset, key=lambda each: each.offset) - 1
        if number < 0 or extent.end > planned[number].end:
            raise ChangedError(f"there is data behind byte {extent.offset}, where there was none")
