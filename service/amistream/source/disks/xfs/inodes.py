"""Inodes of xfs: where they lie, and the runs of blocks that hold their content."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from amistream.source.disks.reading import DoubtError, Reader
from amistream.source.disks.xfs.checksum import has_checksum
from amistream.source.disks.xfs.superblock import Superblock, read_superblock

SYMLINK: Final = 0xA000
LOCAL, EXTENTS, TREE = 1, 2, 3
"""Ways in which an inode holds its content: itself, by a list of runs, by a tree of them."""

_KIND: Final = 0xF000
_ROOT_AT, _INODE_SIZE_AT, _LOGS_AT, _DIRECTORY_LOG_AT = 56, 104, 120, 192
_FLAGS_AT, _INCOMPATIBLE_AT = 200, 216
_TYPED_4, _TYPED_5 = 0x200, 0x1
"""Directories record the kinds of their entries: in version 4, and in version 5."""
_CORE: Final = struct.Struct(">2sHBB 50x Q 8x 4x I H BB 6x H")
"""Magic, mode, version, format, size @56, count of runs @76, that of attributes', their start and format, flags @90."""
_OLD_CORE, _NEW_CORE, _CHECKSUM_AT = 100, 176, 100
_NEW_VERSION: Final = 3
_REALTIME: Final = 0x1
_LARGE_COUNTS_AT, _LARGE_COUNTS_FLAG = 24, 0x10
_FLAGS_2_AT: Final = 120
_RUN: Final = struct.Struct(">QQ")
_MOST_LEVELS: Final = 9
_TREE_MAGIC: Final = {False: b"BMAP", True: b"BMA3"}
_TREE_HEADER: Final = {False: 24, True: 72}
_TREE_CHECKSUM_AT: Final = 64
MOST_RUNS: Final = 50_000


class Run(NamedTuple):
    """Blocks that follow each other, in the file system and in the file."""

    logical: int
    start: int
    blocks: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """The superblock's fields that lead to inodes."""

    fs: Superblock
    root: int
    inode_size: int
    block_bits: int
    """Bits of an inode's number that count the inodes of a block."""
    group_bits: int
    """Bits of a block's address that count within its allocation group."""
    directory_block: int
    """Bytes of a directory's block, which may be several of the file system's."""
    has_types: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Inode:
    number: int
    mode: int
    size: int
    way: int
    """LOCAL, EXTENTS or TREE."""
    runs: int
    """Their count."""
    fork: bytes
    """The content, the list of runs, or the root of their tree."""
    has_attributes: bool

    @property
    def kind(self) -> int:
        return self.mode & _KIND


def read_layout(read: Reader, size: int) -> Layout:
    """Read and check the superblock of a file system within `size` bytes. Raises `DoubtError`."""
    fs = read_superblock(read, size)
    head = read(0, 512)
    inode_size = int.from_bytes(head[_INODE_SIZE_AT : _INODE_SIZE_AT + 2])
    block_log, _, inode_log, inodes_log, group_log = head[_LOGS_AT : _LOGS_AT + 5]
    directory_log = head[_DIRECTORY_LOG_AT]
    if fs.block_size != 1 << block_log or inode_size != 1 << inode_log or not 256 <= inode_size <= 2048:  # noqa: PLR2004
        raise DoubtError(f"its superblock gives inodes of {inode_size} bytes")
    if inodes_log != block_log - inode_log or directory_log > 16 - block_log:
        raise DoubtError("its superblock gives impossible sizes of blocks")
    typed_at, typed = (_INCOMPATIBLE_AT, _TYPED_5) if fs.has_checksums else (_FLAGS_AT, _TYPED_4)
    return Layout(
        fs=fs,
        root=int.from_bytes(head[_ROOT_AT : _ROOT_AT + 8]),
        inode_size=inode_size,
        block_bits=inodes_log,
        group_bits=group_log,
        directory_block=fs.block_size << directory_log,
        has_types=bool(int.from_bytes(head[typed_at : typed_at + 4]) & typed),
    )


def read_inode(read: Reader, layout: Layout, number: int) -> Inode:
    """Read the inode of that number. Raises `DoubtError`."""
    block, index = divmod(number, 1 << layout.block_bits)
    raw = read(block_offset(layout, block) + index * layout.inode_size, layout.inode_size)
    magic, mode, version, way, size, runs, attribute_runs, attributes, attributes_way, flags = _CORE.unpack_from(raw)
    if magic != b"IN" or not 1 <= version <= _NEW_VERSION or mode == 0:
        raise DoubtError(f"inode {number} is none that is in use")
    is_new = version == _NEW_VERSION
    if is_new and not has_checksum(raw, _CHECKSUM_AT):
        raise DoubtError(f"inode {number} has a wrong checksum")
    if flags & _REALTIME:
        raise DoubtError(f"inode {number} has its content on another device")
    if is_new and int.from_bytes(raw[_FLAGS_2_AT : _FLAGS_2_AT + 8]) & _LARGE_COUNTS_FLAG:
        attribute_runs, runs = runs, int.from_bytes(raw[_LARGE_COUNTS_AT : _LARGE_COUNTS_AT + 8])
    start = _NEW_CORE if is_new else _OLD_CORE
    end = start + attributes * 8 if attributes else layout.inode_size
    if not start < end <= layout.inode_size - (4 if attributes else 0):
        raise DoubtError(f"inode {number} is damaged")
    return Inode(
        number=number,
        mode=mode,
        size=size,
        way=way,
        runs=runs,
        fork=raw[start:end],
        # Most inodes have room for attributes; those in the inode begin with their size and count.
        has_attributes=bool(attributes) and (raw[end + 2] if attributes_way == LOCAL else attribute_runs) > 0,
    )


def block_offset(layout: Layout, block: int) -> int:
    """The byte at which a block begins; its address has the group in the upper bits. Raises `DoubtError`."""
    group, inside = divmod(block, 1 << layout.group_bits)
    if group >= layout.fs.groups or inside >= layout.fs.blocks_of(group):
        raise DoubtError(f"its tables refer to block {inside} of group {group}, which does not exist")
    return (group * layout.fs.group_blocks + inside) * layout.fs.block_size


def runs_of(read: Reader, layout: Layout, inode: Inode) -> list[Run]:
    """The runs that hold the content; preallocated ones are none of it. Raises `DoubtError`."""
    if inode.way == EXTENTS:
        if inode.runs * _RUN.size > len(inode.fork):
            raise DoubtError(f"the runs of inode {inode.number} are damaged")
        records = inode.fork[: inode.runs * _RUN.size]
    elif inode.way == TREE:
        records = b"".join(_leaves(read, layout, inode))
    else:
        return []
    found: list[Run] = []
    end = 0
    for high, low in _RUN.iter_unpack(records):
        logical, start, count = high >> 9 & (1 << 54) - 1, (high & 0x1FF) << 43 | low >> 21, low & 0x1FFFFF
        group, inside = divmod(start, 1 << layout.group_bits)
        within = group < layout.fs.groups and inside + count <= layout.fs.blocks_of(group)
        if logical < end or not count or not within:
            raise DoubtError(f"the runs of inode {inode.number} are damaged")
        end = logical + count
        if not high >> 63:
            found.append(Run(logical, start, count))
    return found


def _leaves(read: Reader, layout: Layout, inode: Inode) -> Iterator[bytes]:
    """The records of each leaf of a tree of runs, from left to right."""
    level, count = struct.unpack_from(">HH", inode.fork)
    room = (len(inode.fork) - 4) // 16
    if not 1 <= level <= _MOST_LEVELS or not 0 < count <= room:
        raise DoubtError(f"the tree of runs of inode {inode.number} is damaged")
    ahead = [(level - 1, block) for block in reversed(_pointers(inode.fork, 4 + room * 8, count))]
    total = 0
    while ahead:
        level, block = ahead.pop()
        kind, records, pointers = _tree_block(read, layout, inode, block)
        if kind != level:
            raise DoubtError(f"the tree of runs of inode {inode.number} is damaged")
        if level:
            ahead += [(level - 1, each) for each in reversed(pointers)]
        else:
            yield records
        # A tree whose blocks refer to each other would never end.
        total += len(records) // _RUN.size
        if total > MOST_RUNS:
            raise DoubtError(f"inode {inode.number} has more than {MOST_RUNS} runs of blocks")


def _tree_block(read: Reader, layout: Layout, inode: Inode, block: int) -> tuple[int, bytes, list[int]]:
    """Level, records and pointers of a block of a tree; its records are those of runs in a leaf only."""
    fs = layout.fs
    raw = read(block_offset(layout, block), fs.block_size)
    magic, level, count = struct.unpack_from(">4sHH", raw)
    header = _TREE_HEADER[fs.has_checksums]
    room = (fs.block_size - header) // 16
    if magic != _TREE_MAGIC[fs.has_checksums] or not 0 < count <= room:
        raise DoubtError(f"the tree of runs of inode {inode.number} is damaged")
    if fs.has_checksums and not has_checksum(raw, _TREE_CHECKSUM_AT):
        raise DoubtError(f"the tree of runs of inode {inode.number} has a wrong checksum")
    records = raw[header : header + count * 16]
    return level, records, _pointers(raw, header + room * 8, count)


def _pointers(raw: bytes, start: int, count: int) -> list[int]:
    return list(struct.unpack_from(f">{count}Q", raw, start))
