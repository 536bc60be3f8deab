"""Opens a source as a volume: a block device, an image file, an image of a virtual machine, or standard input.

A format is recognised by the file's first bytes, a fixed-size VHD by its last ones, and never by the file's name. A
block device always is the volume itself.
"""

from __future__ import annotations

from pathlib import Path

from amistream.errors import RefusedError, SourceError
from amistream.ports.volume import Kind, Volume
from amistream.roots import Roots
from amistream.source.file import FileVolume, open_volume
from amistream.source.qemu.converted import open_converted
from amistream.source.qemu.formats import Format, detect_format, ends_of
from amistream.source.stream import open_standard_input
from amistream.values import STANDARD_INPUT


def open_source(
    source: str,
    roots: Roots | None = None,
    *,
    live: bool = False,
    image_size: int | None = None,
    most: int | None = None,
) -> Volume:
    """Open the `source` and check its size against `image_size`, which a stream needs.

    With `roots` the source must lie within them. A converted image whose disk has more than `most` bytes is refused by
    its size alone. Raises `RefusedError`. Blocks: use it on a thread.
    """
    volume: Volume
    if source == STANDARD_INPUT and roots is None:
        volume = open_standard_input(image_size)
    else:
        volume = open_volume(Path(source), roots, live=live)
    try:
        if isinstance(volume, FileVolume) and volume.kind is Kind.IMAGE_FILE and (found := _format_of(volume)):
            volume = open_converted(volume, found, most=most, confined=roots is not None)
        if image_size not in (None, volume.size):
            raise RefusedError(
                "source.size",
                f"cannot bundle {volume.path}: it has {volume.size} bytes, and was said to have {image_size}",
                hint="leave --image-size out: it is needed for a pipe only",
                field="image_size",
            )
    except BaseException:
        volume.close()
        raise
    return volume


def _format_of(volume: FileVolume) -> Format | None:
    try:
        return detect_format(*ends_of(volume))
    except SourceError:
        return None  # a file that cannot be read fails later, with a message of its own
