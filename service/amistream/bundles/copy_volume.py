"""Copies the bytes of an open volume, such as an EBS snapshot, to a file, a block device or the standard output."""

from __future__ import annotations

import asyncio
import time

from amistream.bundles.meter import Meter, Note
from amistream.bundles.results import Copied
from amistream.flow.cancel import finish_despite_cancel
from amistream.ports.target import Target
from amistream.ports.volume import Volume
from amistream.targets.written import written
from amistream.values import MIB

_PIECE = 4 * MIB
_AHEAD = 16 * MIB


async def copy_volume(volume: Volume, target: Target, meter: Meter, note: Note) -> Copied:
    """Copy what is no hole; the target gets its name last. Raises `RefusedError`, `SourceError` and `JobError`."""
    started = time.monotonic()
    extents = volume.extents()
    meter.bytes_total = data = sum(extent.length for extent in extents)

    def stop() -> None:
        volume.interrupt()
        target.stop()

    def copy() -> None:
        for extent in extents:
            for offset in range(extent.offset, extent.end, _PIECE):
                volume.will_need(offset, min(_AHEAD, volume.size - offset))
                piece = memoryview(bytearray(min(_PIECE, extent.end - offset)))
                volume.read_into(offset, piece)
                for batch in target.gather(offset, piece):
                    target.write(batch)
                meter.bytes_done += len(piece)
        for batch in target.rest():
            target.write(batch)

    async with written(target, volume.size, data, note):
        await finish_despite_cancel(asyncio.to_thread(copy), on_cancel=stop)
    return Copied(
        source=str(volume.path),
        destination=target.name,
        image_size=volume.size,
        data_size=data,
        elapsed_s=round(time.monotonic() - started, 3),
    )
