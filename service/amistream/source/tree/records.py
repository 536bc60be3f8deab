"""The records of ext2, ext3 and ext4 that have fixed places: superblock, descriptors, inodes, journal. Pure packers.

Numbers in, bytes out. All are little-endian, but for the journal.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from uuid import UUID

from amistream.source.tree.checksums import crc16, crc32c
from amistream.source.tree.profiles import BLOCK, DESCRIPTOR, GROUP, Checksums, Profile

EXTENTS_FLAG, INDEX_FLAG = 0x80000, 0x1000
INODE_UNINIT, ITABLE_ZEROED = 1, 4
ALL_ONES = 0xFFFFFFFF
OLD_INODE, LARGE_INODE = 128, 256
EXTRA_SIZE = 32
"""Bytes of an inode's second part, behind the first 128: the finer times."""
_SECOND = 1_000_000_000
_EPOCH = 1 << 31
_LAST_SECOND = 0x37FFFFFFF
TIME_SHIFT = _EPOCH * _SECOND
"""The packed form of a time is more by so much, if it is none of those that are clamped."""
_END = (_LAST_SECOND + 1) * _SECOND + TIME_SHIFT
"""The first packed time that ext4 does not know."""
_INODE = struct.Struct("<HHIIIIIHHIII60sIIIIHHHHHH")
_EXTRA = struct.Struct("<HHIIIIIII96s")
_FILE = struct.Struct("<HHIIII4xHHI24sH2xI44xI4x4xI4x4sIIIII104x")
"""An inode of 256 bytes with a single extent; equal to those above, with two constant parts as bytes."""
_ONE_EXTENT = struct.pack("<II HHHHI I", EXTENTS_FLAG, 0, 0xF30A, 1, 4, 0, 0, 0)
"""Flags, and the head of a map of at most four extents, with one: from block 0 of the file on."""
_EXTRA_HEAD = struct.pack("<HH", EXTRA_SIZE, 0)
_DESCRIPTOR = struct.Struct("<IIIHHHHIHHHH")
_NUMBER_AND_GENERATION, _CHECKSUM = struct.Struct("<II"), struct.Struct("<H")
_SECTORS = BLOCK // 512
_INODE_CHECKSUM_LOW, _INODE_CHECKSUM_HIGH = 124, 130
_SUPER_CHECKSUM = 1020
_OLD_DEVICE_LIMIT = 256


def packed_time(nanoseconds: int) -> int:
    """A time since 1970 as one number that fits 64 bits for all times that ext4 knows; others are clamped."""
    packed = nanoseconds + TIME_SHIFT
    if 0 <= packed < _END:
        return packed
    return 0 if packed < 0 else _END - _SECOND


def packed_times(times: Iterable[int]) -> list[int]:
    """Several times, packed."""
    packed = [each + TIME_SHIFT for each in times]
    if min(packed) >= 0 and max(packed) < _END:
        return packed
    return [packed_time(each - TIME_SHIFT) for each in packed]


def seconds_of(packed: int) -> int:
    return packed // _SECOND - _EPOCH


def nanoseconds_of(packed: int) -> int:
    """The time since 1970 that was packed."""
    return packed - TIME_SHIFT


def _words(packed: int) -> tuple[int, int]:
    """The two words of a time: seconds in 32 bits, as inodes have had them from the start; nanoseconds and the rest.

    The rest are the bits for seconds past 2038.
    """
    seconds, rest = divmod(packed, _SECOND)
    return seconds + _EPOCH & ALL_ONES, rest << 2 | seconds >> 32


def coarse_time(packed: int) -> int:
    """The one word of a time in an inode of 128 bytes, which ends in 2038."""
    return min(seconds_of(packed), _EPOCH - 1) & ALL_ONES


def device_words(major: int, minor: int) -> bytes:
    """A device's number in the place of a block map: the old form where it fits, else the new one."""
    if major < _OLD_DEVICE_LIMIT and minor < _OLD_DEVICE_LIMIT:
        return struct.pack("<II", major << 8 | minor, 0)
    return struct.pack("<II", 0, minor & 0xFF | major << 8 | (minor & ~0xFF) << 12)


@dataclass(slots=True, kw_only=True)
class Inode:
    """The values of one inode. Times are packed (`packed_time`)."""

    mode: int
    links: int
    size: int
    uid: int = 0
    gid: int = 0
    mtime: int
    ctime: int
    blocks: int = 0
    """Blocks of data, of the map, and of extended attributes."""
    flags: int = 0
    map: bytes = b""
    """Block map, extents, a short link's target, or a device: up to 60 bytes."""
    xattr_block: int = 0
    inline_xattrs: bytes = b""


def pack_inode(profile: Profile, inode: Inode) -> bytes:
    """Pack an inode without checksum. atime is mtime: else reading the tree would change the next image."""
    large = profile.inode_size > OLD_INODE
    (mtime, mtime_rest), (ctime, ctime_rest) = _words(inode.mtime), _words(inode.ctime)
    if not large:
        mtime, ctime = coarse_time(inode.mtime), coarse_time(inode.ctime)
    size, sectors = inode.size, inode.blocks * _SECTORS
    packed = _INODE.pack(
        inode.mode,
        inode.uid & 0xFFFF,
        size & ALL_ONES,
        mtime,
        ctime,
        mtime,
        0,
        inode.gid & 0xFFFF,
        inode.links,
        sectors & ALL_ONES,
        inode.flags,
        0,
        inode.map,
        0,
        inode.xattr_block,
        size >> 32,
        0,
        sectors >> 32,
        0,
        inode.uid >> 16,
        inode.gid >> 16,
        0,
        0,
    )
    if not large:
        return packed
    return packed + _EXTRA.pack(
        EXTRA_SIZE, 0, ctime_rest, mtime_rest, mtime_rest, mtime, mtime_rest, 0, 0, inode.inline_xattrs
    )


def pack_file_into(  # noqa: PLR0917 - called for nearly every inode, and keywords take time
    table: bytearray,
    at: int,
    mode: int,
    links: int,
    size: int,
    uid: int,
    gid: int,
    mtime: int,
    ctime: int,
    place: int,
    blocks: int,
) -> None:
    """Pack the inode of 256 bytes of a file that is one extent, as nearly all are: what `pack_inode` does, at once."""
    seconds, rest = divmod(mtime, _SECOND)
    written, written_rest = seconds + _EPOCH & ALL_ONES, rest << 2 | seconds >> 32
    seconds, rest = divmod(ctime, _SECOND)
    _FILE.pack_into(
        table,
        at,
        mode,
        uid & 0xFFFF,
        size & ALL_ONES,
        written,
        seconds + _EPOCH & ALL_ONES,
        written,
        gid & 0xFFFF,
        links,
        blocks * _SECTORS,
        _ONE_EXTENT,
        blocks,
        place,
        size >> 32,
        uid >> 16 | gid & 0xFFFF0000,
        _EXTRA_HEAD,
        rest << 2 | seconds >> 32,
        written_rest,
        written_rest,
        written,
        written_rest,
    )


def inode_seed(seed: int, number: int) -> int:
    """The seed of all checksums about one inode: its number, and its generation, which is 0."""
    return crc32c(seed, _NUMBER_AND_GENERATION.pack(number, 0))


def seal_inode(table: bytearray, at: int, inode_size: int, seed: int, number: int) -> None:
    """Enter the checksum of metadata_csum into an inode that has none yet."""
    checksum = crc32c(seed, _NUMBER_AND_GENERATION.pack(number, 0) + table[at : at + inode_size])
    _CHECKSUM.pack_into(table, at + _INODE_CHECKSUM_LOW, checksum & 0xFFFF)
    if inode_size > OLD_INODE:
        _CHECKSUM.pack_into(table, at + _INODE_CHECKSUM_HIGH, checksum >> 16)


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupState:
    """The descriptor of a group."""

    block_bitmap: int
    inode_bitmap: int
    table: int
    free_blocks: int
    free_inodes: int
    directories: int
    unused_inodes: int
    """At the end of the inode table."""
    bitmaps_checksum: tuple[int, int] = (0, 0)
    """CRC-32C of both bitmaps, with metadata_csum."""


def pack_descriptor(profile: Profile, uuid: UUID, group: int, state: GroupState, inodes_per_group: int) -> bytes:
    flags = unused = 0
    if profile.checksums is not Checksums.NONE:
        # The holes in the tables read as zeros: no kernel need clear them after the first mount.
        unused = state.unused_inodes
        flags = ITABLE_ZEROED | (INODE_UNINIT if unused == inodes_per_group else 0)
    packed = bytearray(
        _DESCRIPTOR.pack(
            state.block_bitmap,
            state.inode_bitmap,
            state.table,
            state.free_blocks,
            state.free_inodes,
            state.directories,
            flags,
            0,
            state.bitmaps_checksum[0] & 0xFFFF,
            state.bitmaps_checksum[1] & 0xFFFF,
            unused,
            0,
        )
    )
    place = DESCRIPTOR - 2
    number = struct.pack("<I", group)
    if profile.checksums is Checksums.ALL:
        checksum = crc32c(crc32c(crc32c(ALL_ONES, uuid.bytes), number), packed) & 0xFFFF
        struct.pack_into("<H", packed, place, checksum)
    elif profile.checksums is Checksums.GROUPS:
        struct.pack_into("<H", packed, place, crc16(uuid.bytes + number + packed[:place]))
    return bytes(packed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Super:
    """The values of the superblock that differ from one file system to another."""

    blocks: int
    free_blocks: int
    inodes: int
    free_inodes: int
    inodes_per_group: int
    reserved_descriptors: int
    time: int
    uuid: UUID
    label: bytes
    journal_map: bytes
    """The 60 bytes of the journal's inode, with the size in blocks behind."""
    journal_size: int


def hash_seed(uuid: UUID) -> tuple[int, int, int, int]:
    """The seed of the hashes of names. It need not be secret, and must be the same in the next plan of the tree."""
    one, two, three, four = struct.unpack("<4I", uuid.bytes[::-1])
    return one, two, three, four


def pack_super(profile: Profile, values: Super, group: int) -> bytes:
    """The superblock as it stands in `group`; each copy records its group."""
    packed = bytearray(1024)

    def put(offset: int, form: str, *numbers: int) -> None:
        struct.pack_into(f"<{form}", packed, offset, *numbers)

    reserved = values.blocks // 100
    put(0x00, "6I", values.inodes, values.blocks, reserved, values.free_blocks, values.free_inodes, 0)
    put(0x18, "5I", 2, 2, GROUP, GROUP, values.inodes_per_group)
    put(0x30, "IHH", values.time, 0, 0xFFFF)  # written; mounts so far, and how many until a check: never
    put(0x38, "HHHH", 0xEF53, 1, 1, 0)  # clean; on errors: go on
    put(0x40, "4I", values.time, 0, 0, 1)  # last checked; no interval; Linux; revision 1
    put(0x54, "IHH", 11, profile.inode_size, group)
    put(0x5C, "3I", *profile.features(resizable=values.reserved_descriptors > 0))
    packed[0x68:0x78] = values.uuid.bytes
    packed[0x78 : 0x78 + len(values.label)] = values.label
    put(0xCE, "H", values.reserved_descriptors)
    put(0xEC, "4I", *hash_seed(values.uuid))
    put(0xFC, "B", 1)  # half MD4
    put(0x100, "I", 0xC)  # mount with user_xattr and acl: old kernels need to be told
    put(0x108, "I", values.time)
    if profile.journal:
        put(0xE0, "I", 8)
        put(0xFD, "B", 1)  # a copy of the journal's inode follows
        packed[0x10C : 0x10C + 60] = values.journal_map
        put(0x148, "II", values.journal_size >> 32, values.journal_size & ALL_ONES)
    if profile.inode_size > OLD_INODE:
        put(0x15C, "HH", EXTRA_SIZE, EXTRA_SIZE)
    put(0x160, "I", 2)  # names are hashed as unsigned characters
    if profile.ext4:
        put(0x174, "B", 4)  # 16 groups together
    if profile.sealed:
        put(0x175, "B", 1)  # CRC-32C
        put(_SUPER_CHECKSUM, "I", crc32c(ALL_ONES, packed[:_SUPER_CHECKSUM]))
    return bytes(packed)


def pack_journal(blocks: int) -> bytes:
    """The first block of an empty journal; all others may be holes."""
    head = struct.pack(">12I", 0xC03B3998, 4, 0, BLOCK, blocks, 1, 1, 0, 0, 0, 0, 0)
    return (head.ljust(0x40, b"\0") + struct.pack(">I", 1)).ljust(BLOCK, b"\0")
