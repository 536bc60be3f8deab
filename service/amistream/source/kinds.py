"""Which kind of volume a source is: a block device, an image file, a disk image in another form, or standard input.

The forms are told by their first bytes, and the VHD of fixed size by its last: never by the file's name. Of a block
device nothing is asked: it is the volume.
"""

from __future__ import annotations

from pathlib import Path

from amistream.errors import SourceError
from amistream.source.converted import FOOTER, HEAD, ConvertedVolume, Format, detect_format, open_converted
from amistream.source.stdin import STANDARD_INPUT, StreamVolume, open_standard_input
from amistream.source.volume import FileVolume, Kind, open_volume


def open_source(source: str, *, image_size: int | None = None) -> FileVolume | ConvertedVolume | StreamVolume:
    """Open what `source` names; `image_size` is for standard input. Raises `RefusedError`. Blocks: use it on a thread."""
    if source == STANDARD_INPUT:
        return open_standard_input(image_size)
    volume = open_volume(Path(source))
    try:
        found = _format_of(volume)
        return open_converted(volume, found) if found else volume
    except BaseException:
        volume.close()
        raise


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
