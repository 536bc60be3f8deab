"""Finds where a pass begins: anew, or behind the parts that an earlier pass under the same key has stored.

Nothing here asks a destination: the parts were proved by `proof`. The volume's data was found by the preflight; it is
read only where the plan has none.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import takewhile

from amistream.jobs.records import SealedPart
from amistream.plan import Bundling, Resumption
from amistream.ports.volume import Readable
from amistream.values import MIB, ChangedError, Extent

_AT_ONCE = MIB
_ZEROS = memoryview(bytes(_AT_ONCE))


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


def check_volume(bundling: Bundling, volume: Readable, data: Sequence[Extent]) -> None:
    """Raise `ChangedError` when the volume has another size than settled, or bytes that the plan takes for zeros.

    Only `data` outside of what the plan reads is looked at: it would never be read. Zeros there are no change: a hole
    of a preallocated file counts as data once it was read, by anybody. Data that went is no matter: its place is read,
    hashed and compared. Blocks: use it on a thread.
    """
    if bundling.image_size != volume.size:
        raise ChangedError(f"it had {bundling.image_size} bytes and has {volume.size}")
    plan = bundling.plan
    planned = plan.extents if plan.used is None else plan.used
    if planned is None:
        return
    buffer = memoryview(bytearray(_AT_ONCE))
    for start, end in _outside(data, planned):
        for offset in range(start, end, _AT_ONCE):
            found = buffer[: min(_AT_ONCE, end - offset)]
            volume.read_into(offset, found)
            if found != _ZEROS[: len(found)]:
                raise ChangedError(f"there is data behind byte {start}, where there was none")


def _outside(data: Sequence[Extent], planned: Sequence[Extent]) -> Iterator[tuple[int, int]]:
    """Start and end of the ranges of `data` that no extent of `planned` covers. Both ascend."""
    for extent in data:
        start = extent.offset
        number = bisect_right(planned, start, key=lambda each: each.end)
        while number < len(planned) and planned[number].offset < extent.end:
            if start < planned[number].offset:
                yield start, planned[number].offset
            start = planned[number].end
            number += 1
        if start < extent.end:
            yield start, extent.end
