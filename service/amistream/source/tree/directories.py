"""The blocks of directories: a plain list of entries in one block, an index by the hash of names in several. Pure."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

from amistream.source.tree.checksums import crc32c, half_md4
from amistream.source.tree.profiles import BLOCK, Profile
from amistream.source.tree.records import inode_seed

Entry = tuple[int, bytes, int]
"""Inode, name, and type of a name."""
DIRECTORY_TYPE = 2
LOST_AND_FOUND_BLOCKS = 4
"""Blocks of a fresh lost+found, so that e2fsck need not find any when the disk is full."""
_ENTRY = struct.Struct("<IHBB")
_PADDINGS = (b"", b"\0\0\0", b"\0\0", b"\0")
"""By the last two bits of a name's length."""
_TAIL = 12
_INDEX_TAIL = 8
_ROOT_ENTRIES, _NODE_ENTRIES = 32, 8
"""Where the index entries begin: behind `.`, `..` and 8 bytes in the root, behind an empty entry in other nodes."""
_FILLED = 4 / 5
"""How far a leaf is filled: the next new names must not split every leaf at once."""
GOES_ON = 1
"""In the hash of a leaf: names of the same hash stand at the end of the leaf before."""


def entry_size(name: int) -> int:
    """Bytes of an entry with a name of so many bytes."""
    return _ENTRY.size + name + 3 & ~3


_DOTS = entry_size(1) + entry_size(2)


def fits_one_block(names: int, profile: Profile) -> bool:
    """`names`: the sizes of all entries together, but those of `.` and `..`."""
    return _DOTS + names <= profile.room


def linear(number: int, parent: int, entries: Iterable[Entry], profile: Profile, seed: int) -> bytes:
    """The one block of a small directory."""
    dots = ((number, b".", DIRECTORY_TYPE), (parent, b"..", DIRECTORY_TYPE))
    return _sealed(_packed((*dots, *entries), profile), profile, inode_seed(seed, number))


def lost_and_found(number: int, parent: int, profile: Profile, seed: int, blocks: int) -> Iterator[bytes]:
    """A list of several blocks, all but the first without any entry."""
    yield linear(number, parent, (), profile, seed)
    for _ in range(blocks - 1):
        yield _sealed(_packed([(0, b"", 0)], profile), profile, inode_seed(seed, number))


class Indexed:
    """A directory of several blocks: root of the index, further nodes, leaves with names in the order of hashes."""

    def __init__(self, names: Sequence[bytes], profile: Profile, seed: tuple[int, int, int, int]) -> None:
        self._profile = profile
        hashed = sorted((*half_md4(name, seed), place) for place, name in enumerate(names))
        self._order = array("I", (place for _, _, place in hashed))
        self._starts, self._hashes = self._cut(hashed, names)
        tail = _INDEX_TAIL if profile.sealed else 0
        self._root_limit = (BLOCK - _ROOT_ENTRIES - tail) // 8
        self._node_limit = (BLOCK - _NODE_ENTRIES - tail) // 8
        leaves = len(self._starts)
        self._nodes = 0 if leaves <= self._root_limit else -(-leaves // self._node_limit)
        if self._nodes > self._root_limit:
            raise OverflowError(f"{len(names)} names are too many for one directory")

    @property
    def blocks(self) -> int:
        return 1 + self._nodes + len(self._starts)

    def pack(self, number: int, parent: int, entries: Sequence[Entry], seed: int) -> Iterator[bytes]:
        """The blocks in order. `entries` are in the order of the names."""
        own = inode_seed(seed, number)
        first = 1 + self._nodes
        pairs = [(key, first + place) for place, key in enumerate(self._hashes)]
        limit = self._node_limit
        nodes = [pairs[at : at + limit] for at in range(0, len(pairs), limit)] if self._nodes else []
        top = [(node[0][0], 1 + place) for place, node in enumerate(nodes)] or pairs
        yield self._root(number, parent, top, own)
        for node in nodes:
            yield self._node(node, own)
        for start, end in pairwise([*self._starts, len(self._order)]):
            leaf = [entries[place] for place in self._order[start:end]]
            yield _sealed(_packed(leaf, self._profile), self._profile, own)

    def _cut(self, hashed: Sequence[tuple[int, int, int]], names: Sequence[bytes]) -> tuple[list[int], list[int]]:
        """Where each leaf starts in the order of hashes, and the hash that stands for it in the index."""
        most = int(self._profile.room * _FILLED)
        starts, hashes = [0], [0]
        filled = 0
        for place, (major, _, name) in enumerate(hashed):
            size = entry_size(len(names[name]))
            if filled and filled + size > most:
                same = hashed[place - 1][0] == major
                starts.append(place)
                hashes.append(major | GOES_ON if same else major)
                filled = 0
            filled += size
        return starts, hashes

    def _root(self, number: int, parent: int, pairs: Sequence[tuple[int, int]], seed: int) -> bytes:
        block = bytearray(BLOCK)
        _ENTRY.pack_into(block, 0, number, 12, 1, DIRECTORY_TYPE)
        _ENTRY.pack_into(block, 12, parent, BLOCK - 12, 2, DIRECTORY_TYPE)
        block[8:9], block[20:22] = b".", b".."
        struct.pack_into("<IBBBB", block, 24, 0, 1, 8, 1 if self._nodes else 0, 0)  # half MD4; levels below
        self._enter(block, _ROOT_ENTRIES, self._root_limit, pairs, seed)
        return bytes(block)

    def _node(self, pairs: Sequence[tuple[int, int]], seed: int) -> bytes:
        block = bytearray(BLOCK)
        _ENTRY.pack_into(block, 0, 0, BLOCK, 0, 0)
        self._enter(block, _NODE_ENTRIES, self._node_limit, pairs, seed)
        return bytes(block)

    def _enter(self, block: bytearray, start: int, limit: int, pairs: Sequence[tuple[int, int]], seed: int) -> None:
        """Index entries from `start` on; the first one has limit and count in place of its hash."""
        struct.pack_into("<HHI", block, start, limit, len(pairs), pairs[0][1])
        for place, (key, leaf) in enumerate(pairs[1:], 1):
            struct.pack_into("<II", block, start + 8 * place, key, leaf)
        if self._profile.sealed:
            covered = crc32c(crc32c(seed, block[: start + 8 * len(pairs)]), bytes(_INDEX_TAIL))
            struct.pack_into("<II", block, start + 8 * limit, 0, covered)


def _packed(entries: Iterable[Entry], profile: Profile) -> bytearray:
    """Entries one after the other; the last one reaches to the end of the room."""
    pack, pieces = _ENTRY.pack, []
    at = last = 0
    for number, name, kind in entries:
        length = len(name)
        padding = _PADDINGS[length & 3]
        size = _ENTRY.size + length + len(padding)
        pieces.append(pack(number, size, length, kind) + name + padding)
        last, at = at, at + size
    if at > profile.room:
        raise OverflowError("a directory's block overflows")
    block = bytearray(b"".join(pieces).ljust(BLOCK, b"\0"))
    struct.pack_into("<H", block, last + 4, profile.room - last)
    return block


def _sealed(block: bytearray, profile: Profile, seed: int) -> bytes:
    """With metadata_csum: the checksum, in the form of an entry without inode."""
    if profile.sealed:
        end = BLOCK - _TAIL
        struct.pack_into("<IHBBI", block, end, 0, _TAIL, 0, 0xDE, crc32c(seed, block[:end]))
    return bytes(block)
