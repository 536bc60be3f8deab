"""Takes up what an earlier process left: proves what is stored, and finds where to go on; or removes it.

Nothing is trusted that can be asked: a part counts as stored only when its place shows it with the size and checksum
that the journal has. Every part was entered there before it was sent, so what is found under a part's name with its
checksum is the job's own, and anything else is not.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Sequence
from itertools import takewhile

from amistream.jobs.records import SealedPart
from amistream.plan import Bundling, Resumption
from amistream.ports.volume import Volume
from amistream.values import ChangedError


async def check_volume(bundling: Bundling, volume: Volume) -> None:
    """Raise `ChangedError` when the volume has another size, or data where an earlier run saw a hole.

    Such data would never be read. A hole that grew is no matter: it reads as zeros, and all bytes are compared.
    """
    if bundling.image_size != volume.size:
        raise ChangedError(f"it had {bundling.image_size} bytes and has {volume.size}")
    known = bundling.plan.extents
    if known is None:
        return
    for extent in await asyncio.to_thread(volume.extents):
        number = bisect_right(known, extent.offset, key=lambda each: each.offset) - 1
        if number < 0 or extent.end > known[number].end:
            raise ChangedError(f"there is data behind byte {extent.offset}, where there was a hole")


def resumption(bundling: Bundling, parts: Sequence[SealedPart]) -> Resumption:
    """Where to go on: after the last part before which nothing is missing, if the stream's state there is known."""
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
