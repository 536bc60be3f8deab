"""Opens a source as a volume: directory, block device, image file, image of a virtual machine, EBS snapshot, standard
input.

A format is recognised by the file's first bytes, a fixed-size VHD by its last ones, and never by the file's name. A
device or file that holds no disk but an archive or the like is refused, and a device with an image of a virtual machine
too; `as_it_is` takes the bytes as they are.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, cast

from amistream.errors import RefusedError, SourceError
from amistream.ports.volume import Kind, Volume
from amistream.roots import Roots, pinned
from amistream.source.disks.facts import TableKind
from amistream.source.file import FileVolume, open_volume
from amistream.source.foreign import AS_IT_IS, HEAD, TAIL, Foreign, recognise
from amistream.source.pieces import PiecedVolume
from amistream.source.qemu.formats import Format, detect_format
from amistream.source.qemu.headers import read_range
from amistream.source.stream import STANDARD_INPUT_PATH, open_standard_input
from amistream.values import STANDARD_INPUT, quoted

if TYPE_CHECKING:
    from amistream.source.tree.volume import TreeVolume
    from amistream.source.xfs_tree.volume import CopiedVolume


def open_source(
    source: str,
    roots: Roots | None = None,
    *,
    live: bool = False,
    image_size: int | None = None,
    most: int | None = None,
    as_it_is: bool = False,
    partition: TableKind = TableKind.NONE,
    tree: Callable[[Path], Volume] | None = None,
    snapshot: Volume | None = None,
) -> Volume:
    """Open the `source` and check its size against `image_size`, which a stream needs.

    A directory is opened by `tree`; a `snapshot` is open already, and is closed here after a failure. `as_it_is`: the
    bytes are the disk, whatever they look like. `partition`: make a disk with such a table of a bare file system. With
    `roots` the source must lie within them. A converted image whose disk has more than `most` bytes is refused by its
    size alone. Raises `RefusedError`. Blocks: use it on a thread.
    """
    volume: Volume
    if snapshot is not None:
        volume = snapshot
    elif source == STANDARD_INPUT and roots is None:
        volume = open_standard_input(image_size, as_it_is=as_it_is)
    elif tree is not None and _is_directory(Path(source), roots):
        volume = tree(Path(source))
    else:
        volume = open_volume(Path(source), roots, live=live)
    try:
        if isinstance(volume, FileVolume) and not as_it_is and (found := _format_of(volume)):
            if volume.kind is Kind.BLOCK_DEVICE:
                raise _device_with_image(volume, found)
            from amistream.source.qemu.converted import open_converted  # noqa: PLC0415 - starts programs

            volume = open_converted(volume, found, most=most, confined=roots is not None)
        if image_size not in (None, volume.size):
            raise RefusedError(
                "source.size",
                f"cannot bundle {volume.path}: it has {volume.size} bytes, and was said to have {image_size}",
                hint="leave --image-size out: it is needed for a pipe only",
                field="image_size",
            )
        if partition is not TableKind.NONE and tree_of(volume) is None:
            from amistream.source.wrapped import wrap  # noqa: PLC0415 - loads all readers of files

            volume = wrap(volume, partition)
    except BaseException:
        volume.close()
        raise
    return volume


def _is_directory(path: Path, roots: Roots | None) -> bool:
    """Look at a source. With `roots` a path that leads outside is refused."""
    if roots is None:
        return path.is_dir()
    with pinned(path, roots, field="source") as descriptor:
        return stat.S_ISDIR(os.fstat(descriptor).st_mode)


def tree_of(volume: Volume) -> TreeVolume | CopiedVolume | None:
    """The tree that a volume is made of, alone or with a boot area; None for other volumes."""
    while isinstance(volume, PiecedVolume):
        volume = volume.inner
    return cast("TreeVolume | CopiedVolume", volume) if volume.kind is Kind.TREE else None


def _format_of(volume: FileVolume) -> Format | None:
    """The format to convert from, None for a disk. Raises `RefusedError` if it holds neither."""
    tail_size = min(TAIL, volume.size)
    try:
        head = read_range(volume, 0, min(HEAD, volume.size))
        tail = read_range(volume, volume.size - tail_size, tail_size)
    except SourceError:
        return None  # a file that cannot be read fails later, with a message of its own
    found = detect_format(head, tail)
    if found is None and (kind := recognise(head, tail)):
        raise _no_disk(volume, kind)
    return found


def _no_disk(volume: FileVolume, kind: Foreign) -> RefusedError:
    return RefusedError(
        "source.no_disk",
        f"cannot bundle {volume.path}: it is {kind.words}, not a disk",
        hint=kind.hint("" if volume.path == STANDARD_INPUT_PATH else str(volume.path)),
        field="source",
    )


def _device_with_image(volume: FileVolume, image_format: Format) -> RefusedError:
    return RefusedError(
        "source.no_disk",
        f"cannot bundle {volume.path}: the device holds a {image_format.words} image, not a disk",
        hint=f"convert it: qemu-img convert -f {image_format.value} -O raw {quoted(volume.path)} disk.img, "
        f"then give disk.img as SOURCE; {AS_IT_IS}",
        field="source",
    )
