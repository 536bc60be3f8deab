"""Which kind of volume a source is: a block device, an image file, a disk image in another form, or standard input.

The forms are told by their first bytes, and the VHD of fixed size by its last: never by the file's name. Of a block
device nothing is asked: it is the volume.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias

from amistream.errors import RefusedError, SourceError
from amistream.ports.volume import Kind
from amistream.roots import Roots
from amistream.source.file import FileVolume, open_volume
from amistream.source.qemu.converted import FOOTER, HEAD, ConvertedVolume, Format, detect_format, open_converted
from amistream.source.stream import StreamVolume, open_standard_input
from amistream.values import STANDARD_INPUT

AnyVolume: TypeAlias = FileVolume | ConvertedVolume | StreamVolume


def open_source(
    source: str,
    roots: Roots | None = None,
    *,
    live: bool = False,
    image_size: int | None = None,
    most: int | None = None,
) -> AnyVolume:
    """Open what `source` names, which has `image_size` bytes if that is known: a stream does not tell it.

    With `roots` it must lie within them. Of an image in another form with a disk of more than `most` bytes nothing but
    the size is looked at. Raises `RefusedError`. Blocks: use it on a thread.
    """
    volume: AnyVolume
    if source == STANDARD_INPUT and roots is None:
        volume = open_standard_input(image_size)
    else:
        volume = open_volume(Path(source), roots, live=live)
    try:
        if isinstance(volume, FileVolume) and (found := _format_of(volume)):
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
    if volume.kind is not Kind.IMAGE_FILE:
        return None
    try:
        return detect_format(_bytes(volume, 0, HEAD), _bytes(volume, volume.size - FOOTER, FOOTER))
    except SourceError:
        return None  # a file that cannot be read fails in words of its own when its turn comes


def _bytes(volume: FileVolume, offset: int, length: int) -> bytes:
    offset = max(0, offset)
    found = bytearray(min(length, volume.size - offset))
    volume.read_into(offset, memoryview(found))
    return bytes(found)
