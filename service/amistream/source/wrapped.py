"""A bare file system as the only partition of a disk that a BIOS boots: table and GRUB before it, its bytes as is."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

from amistream.errors import RefusedError, SourceError
from amistream.ports.volume import Kind, Volume
from amistream.source.disk_reader import reader_of
from amistream.source.disks.boot_area import MBR_LIMIT, boot_area, partition_uuid
from amistream.source.disks.boot_config import boot_config
from amistream.source.disks.ext4.features import UNREADABLE_BY_GRUB
from amistream.source.disks.ext4.files import Ext4Tree
from amistream.source.disks.ext4.superblock import read_superblock
from amistream.source.disks.facts import FileSystem, TableKind
from amistream.source.disks.files import Files
from amistream.source.disks.partitions import read_table
from amistream.source.disks.reading import DoubtError, Reader
from amistream.source.disks.signatures import identify
from amistream.source.disks.xfs.files import XfsTree
from amistream.source.disks.xfs.superblock import unreadable_by_grub
from amistream.source.grub import grub_images
from amistream.source.pieces import Memory, PiecedVolume, whole
from amistream.units import size_text
from amistream.values import quoted

_DRIVERS = {"ext2": "ext2", "ext3": "ext2", "ext4": "ext2", "xfs": "xfs"}
"""GRUB's module for each kind of file system whose files are found here."""
_OTHER_WAY = "install the system on a disk with a partition table and GRUB, and bundle that disk"


def wrap(volume: Volume, kind: TableKind) -> PiecedVolume:
    """Make a disk of the file system in `volume`, which stays open if this raises `RefusedError`."""
    if volume.kind is Kind.STREAM:
        raise _refused(
            volume,
            "partition.stream",
            "the names of its kernel are needed before its first byte",
            "give the file system as a file or device",
        )
    try:
        return _wrapped(volume, kind, reader_of(volume))
    except DoubtError as error:
        raise _refused(
            volume, "partition.file_system", f"its file system cannot be read: {error}", _OTHER_WAY
        ) from error
    except SourceError as error:
        raise RefusedError(**{**error.as_dict(), "field": "source"}) from error


def _wrapped(volume: Volume, kind: TableKind, read: Reader) -> PiecedVolume:
    table = read_table(read, volume.size)
    if table.kind is not TableKind.NONE:
        hint = "bundle it as it is, without --partition; `fdisk -l` shows its table"
        raise _refused(volume, "partition.present", "it has a partition table already", hint)
    content = identify(read, volume.size)
    if content is None or content.kind not in _DRIVERS:
        what = f"a file system of type {content.kind}" if content else "no file system that is known here"
        why = f"it holds {what}, and files are found in {', '.join(_DRIVERS)} only"
        raise _refused(volume, "partition.file_system", why, _OTHER_WAY)
    if kind is TableKind.MBR and volume.size > MBR_LIMIT:
        why = f"it has {size_text(volume.size)}, and an MBR describes less than 2 TiB"
        raise _refused(volume, "partition.size", why, "give --partition gpt")
    is_xfs = content.kind == "xfs"
    tree = XfsTree(read, volume.size) if is_xfs else Ext4Tree(read, volume.size)
    if found := unreadable_by_grub(read) if is_xfs else _unreadable_ext(read):
        raise _refused(
            volume, "partition.features", f"it has {' and '.join(found)}, which GRUB does not read", _OTHER_WAY
        )
    identifier = _identifier(volume, content)
    config = boot_config(Files(tree), identifier, partition_uuid(kind, identifier))
    if config is None:
        raise no_kernel(volume.path)
    area = boot_area(kind, volume.size, identifier, grub_images(config, kind, _DRIVERS[content.kind]))
    return PiecedVolume(volume, [whole(Memory(area.head)), whole(volume), whole(Memory(area.tail))])


def _unreadable_ext(read: Reader) -> list[str]:
    features = read_superblock(read).features
    return [each for each in UNREADABLE_BY_GRUB if each in features]


def _identifier(volume: Volume, content: FileSystem) -> UUID:
    if not content.uuid:
        tool = "xfs_admin -U generate" if content.kind == "xfs" else "tune2fs -U random"
        fix = f"give it one: {tool} {quoted(volume.path)}"
        raise _refused(volume, "partition.uuid", "its file system has no UUID, by which GRUB would find it", fix)
    return UUID(content.uuid)


def no_kernel(path: Path) -> RefusedError:
    """The refusal of a file system or directory that GRUB could start nothing of."""
    return RefusedError(
        "partition.no_kernel",
        f"cannot make a disk of {path}: there is neither a kernel nor a menu of GRUB in its /boot",
        hint=f"install a kernel in it; if /boot is a file system of its own: {_OTHER_WAY}",
        field="partition",
    )


def _refused(volume: Volume, code: str, why: str, hint: str) -> RefusedError:
    message = f"cannot make a disk of {volume.path}: {why}"
    return RefusedError(code, message, hint=hint, field="partition")
