"""Finds the file system, or the member of something larger, that a partition or disk holds, by its marks.

Names, labels and ids are those that `blkid` prints. A member of a RAID or an encrypted volume is named as that,
whatever else is marked, because a mirror's member looks as the file system in it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from itertools import islice
from typing import TypeAlias

from amistream.source.disks import marks
from amistream.source.disks.ext4.features import feature_names, kind_of
from amistream.source.disks.ext4.mark import LENGTH, OFFSET, is_superblock
from amistream.source.disks.facts import FileSystem
from amistream.source.disks.fat import identify_exfat, identify_vfat
from amistream.source.disks.ids import label_text, uuid_text
from amistream.source.disks.ntfs import identify_ntfs
from amistream.source.disks.reading import DoubtError, Reader
from amistream.source.disks.xfs import head as xfs
from amistream.values import KIB

Probe: TypeAlias = Callable[[Reader, int], FileSystem | None]
"""Recognises one kind in the `size` bytes of a reader."""

_SECTOR = 512
_RAID_MARK = 0xA92B4EFC
_RAID_1 = struct.Struct("<II8x16s32s80xQ")
"""Mark, version, set's id, set's name, own sector."""
_LVM_SECTORS, _LVM_GROUPS = 4, (6, 4, 4, 4, 4, 4, 6)
_LUKS_1, _LUKS_2 = (b"LUKS\xba\xbe" + bytes((0, version)) for version in (1, 2))
_SWAP_PAGES = tuple(4 * KIB << shift for shift in range(5))
_SWAP = struct.Struct("<II4x16s16s")
"""Version, last page, id, label."""
_HIBERNATED = (b"S1SUSPEND", b"S2SUSPEND", b"ULSUSPEND", b"LINHIB0001")
"""The marks of a swap that holds a sleeping system."""
_EXT_MOST_SHIFT = 6
_BTRFS, _BTRFS_MARK = 64 * KIB, b"_BHRfS_M"
_ISO, _ISO_DATES = 32 * KIB, (830, 813)
_SQUASHFS_VERSION = 4
_ZFS_RING, _ZFS_MARK, _ZFS_LEAST = 128 * KIB, 0x00BAB10C, 4
"""The copies of the pool's root; `blkid` wants as many of them, since old ones stay behind on disks."""


def identify(read: Reader, size: int) -> FileSystem | None:
    """The content of the `size` bytes that `read` gives; None if nothing known is there.

    Raises `DoubtError` if it is marked as several file systems, of which all but one are leftovers.
    """
    for probe in _MEMBERS:
        if member := probe(read, size):
            return member
    found = [each for probe in _FILE_SYSTEMS if (each := probe(read, size))]
    if len(found) > 1:
        raise DoubtError(f"it is marked as {' and as '.join(each.kind for each in found)}")
    return found[0] if found else None


def _raid(read: Reader, size: int) -> FileSystem | None:
    """Linux's software RAID: version 1 near the end, at the start or 4 KiB behind it; version 0.90 at the end."""
    for place in ((size - 8 * KIB) // (4 * KIB) * 4 * KIB, 0, 4 * KIB):
        if 0 <= place <= size - 4 * KIB:
            mark, version, uuid, name, sector = _RAID_1.unpack(read(place, _RAID_1.size))
            if (mark, version, sector) == (_RAID_MARK, 1, place // _SECTOR):
                return FileSystem(kind="linux_raid_member", uuid=uuid_text(uuid), label=label_text(name))
    place = size // (64 * KIB) * 64 * KIB - 64 * KIB
    if place >= 0:
        block = read(place, 64)
        for order in ("<", ">"):
            mark, version, first = struct.unpack_from(f"{order}II12xI", block)
            if (mark, version) == (_RAID_MARK, 0):
                rest = struct.unpack_from(f"{order}3I", block, 52)
                return FileSystem(kind="linux_raid_member", uuid=uuid_text(struct.pack(">4I", first, *rest)))
    return None


def _lvm(read: Reader, size: int) -> FileSystem | None:
    for sector in range(min(_LVM_SECTORS, size // _SECTOR)):
        block = read(sector * _SECTOR, _SECTOR)
        header = int.from_bytes(block[20:24], "little")
        if block.startswith(b"LABELONE") and block[24:32] == b"LVM2 001" and header <= _SECTOR - 40:
            letters = iter(label_text(block[header:][:32], "ascii"))
            uuid = "-".join("".join(islice(letters, count)) for count in _LVM_GROUPS)
            return FileSystem(kind="LVM2_member", uuid=uuid, size=int.from_bytes(block[header + 32 :][:8], "little"))
    return None


def _luks(read: Reader, size: int) -> FileSystem | None:
    if size < 4 * KIB:
        return None
    block = read(0, 256)
    if not block.startswith((_LUKS_1, _LUKS_2)):
        return None
    label = label_text(block[24:72]) if block.startswith(_LUKS_2) else ""
    return FileSystem(kind="crypto_LUKS", uuid=label_text(block[168:208], "ascii"), label=label)


def _zfs(read: Reader, size: int) -> FileSystem | None:
    """A member of a pool; its ids are in a list of names, which nothing here needs."""
    if size < 2 * _ZFS_RING:
        return None
    ring = read(_ZFS_RING, _ZFS_RING)
    marks = (ring[place : place + 8] for place in range(0, _ZFS_RING, KIB))
    count = sum(int.from_bytes(mark, order) == _ZFS_MARK for mark in marks for order in ("little", "big"))
    return FileSystem(kind="zfs_member") if count >= _ZFS_LEAST else None


def _swap(read: Reader, size: int) -> FileSystem | None:
    for page in _SWAP_PAGES:
        if size < page:
            return None
        mark = read(page - 10, 10)
        if mark == b"SWAPSPACE2":
            version, last, uuid, label = _SWAP.unpack(read(1024, _SWAP.size))
            length = (last + 1) * page if version == 1 else None
            return FileSystem(kind="swap", size=length, uuid=uuid_text(uuid), label=label_text(label))
        if mark.startswith(_HIBERNATED):
            return FileSystem(kind="swsuspend")
    return None


def _ext(read: Reader, size: int) -> FileSystem | None:
    if size < OFFSET + LENGTH:
        return None
    block = read(OFFSET, LENGTH)
    if not is_superblock(block):
        return None
    features = feature_names(*struct.unpack_from("<3I", block, 0x5C))
    blocks, shift = int.from_bytes(block[4:8], "little"), int.from_bytes(block[24:28], "little")
    if "64bit" in features:
        blocks += int.from_bytes(block[0x150:0x154], "little") << 32
    return FileSystem(
        kind="jbd" if "journal_dev" in features else kind_of(features),
        size=blocks << (10 + shift) if shift <= _EXT_MOST_SHIFT else None,
        uuid=uuid_text(block[0x68:0x78]),
        label=label_text(block[0x78:0x88]),
    )


def _xfs(read: Reader, size: int) -> FileSystem | None:
    return xfs.identify(read(0, _SECTOR)) if size >= _SECTOR else None


def _btrfs(read: Reader, size: int) -> FileSystem | None:
    if size < _BTRFS + 4 * KIB:
        return None
    block = read(_BTRFS, 4 * KIB)
    if block[0x40:0x48] != _BTRFS_MARK:
        return None
    return FileSystem(
        kind="btrfs",
        size=int.from_bytes(block[0xD1:0xD9], "little"),  # of this device: there may be several
        uuid=uuid_text(block[0x20:0x30]),
        label=label_text(block[0x12B:0x22B]),
    )


def _iso(read: Reader, size: int) -> FileSystem | None:
    """A CD's image, whose id is the time at which it was changed or made last."""
    if size < _ISO + 2 * KIB:
        return None
    block = read(_ISO, 2 * KIB)
    if block[1:6] != b"CD001":
        return None
    dates = (block[place : place + 16].decode("ascii", errors="replace") for place in _ISO_DATES)
    date = next((each for each in dates if each.isdigit() and int(each)), "")
    parts = (date[:4], *(date[place : place + 2] for place in range(4, 16, 2)))
    length = int.from_bytes(block[80:84], "little") * int.from_bytes(block[128:130], "little")
    label = label_text(block[40:72])
    return FileSystem(kind="iso9660", size=length, uuid="-".join(parts) if date else "", label=label)


def _squashfs(read: Reader, size: int) -> FileSystem | None:
    if size < _SECTOR:
        return None
    block = read(0, 96)
    if not block.startswith(b"hsqs") or int.from_bytes(block[28:30], "little") < _SQUASHFS_VERSION:
        return None
    return FileSystem(kind="squashfs", size=int.from_bytes(block[40:48], "little"))


_MEMBERS: tuple[Probe, ...] = (_raid, _lvm, _luks, _zfs, *marks.MEMBERS)
_FILE_SYSTEMS: tuple[Probe, ...] = (
    _ext,
    _xfs,
    _btrfs,
    identify_vfat,
    identify_ntfs,
    identify_exfat,
    _iso,
    _squashfs,
    _swap,
    *marks.FILE_SYSTEMS,
)
