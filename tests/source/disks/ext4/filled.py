"""File systems of the ext family with deleted files in them, readers of them, and what other tools say of their blocks.

All are made by mke2fs and debugfs: no mount, and the same arguments give the same bytes,
but for the times that the tree brings.
"""

from __future__ import annotations

import os
import random
import re
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from amistream.source.disks.ext4.used import used_blocks
from support.volumes import FIXED_UUID, MIB

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from amistream.source.disks.facts import UsedBlocks
    from amistream.source.disks.reading import Reader

SIZE = 24 * MIB
NOW = 1_700_000_000
FIXED_TIME = {"E2FSPROGS_FAKE_TIME": str(NOW)}
MARKER = b"deleted, and never to be seen again\n"
FILES = 24
DELETED = range(0, FILES, 3)

VARIANTS = {
    "ext4, 1 KiB": "-t ext4 -b 1024",
    "ext4, 2 KiB": "-t ext4 -b 2048",
    "ext4, 4 KiB": "-t ext4 -b 4096",
    "ext2": "-t ext2 -b 1024",
    "ext2, first revision": "-t ext2 -r 0 -b 4096",
    "ext3": "-t ext3 -b 4096",
    "uninit_bg": "-t ext4 -b 1024 -O ^metadata_csum,uninit_bg",
    "uninit_bg, 32 bit": "-t ext4 -b 1024 -O ^metadata_csum,uninit_bg,^64bit",
    "32 bit": "-t ext4 -b 1024 -O ^64bit",
    "no flex_bg": "-t ext4 -b 1024 -O ^flex_bg",
    "meta_bg": "-t ext4 -b 1024 -g 512 -O meta_bg,^resize_inode",
    "sparse_super2": "-t ext4 -b 1024 -O sparse_super2,^resize_inode",
    "no sparse_super": "-t ext4 -b 1024 -O ^sparse_super,^resize_inode",
    "bigalloc": "-t ext4 -b 4096 -C 65536 -O bigalloc",
    "bigalloc, 1 KiB": "-t ext4 -b 1024 -C 16384 -O bigalloc",
    "csum_seed": "-t ext4 -b 4096 -O metadata_csum_seed",
    "inline_data": "-t ext4 -b 4096 -O inline_data",
    "casefold": "-t ext4 -b 4096 -O casefold",
    "ea_inode": "-t ext4 -b 4096 -O ea_inode",
    "quota": "-t ext4 -b 4096 -O quota,project",
    "orphan_file": "-t ext4 -b 4096 -O orphan_file",
    "fast_commit": "-t ext4 -b 4096 -O fast_commit",
    "mmp": "-t ext4 -b 4096",
    "small groups": "-t ext4 -b 1024 -g 256 -N 2048",
    "encrypt and verity": "-t ext4 -b 4096 -O encrypt,verity,stable_inodes",
    "no journal": "-t ext4 -b 4096 -O ^has_journal",
    "no checksums": "-t ext4 -b 1024 -O ^metadata_csum,^uninit_bg",
    "inodes of 128 bytes": "-t ext4 -b 1024 -I 128",
    "inodes of 1 KiB": "-t ext4 -b 1024 -I 1024",
}


@dataclass(frozen=True)
class Filled:
    """An image, and the blocks of it as the other tools know them."""

    path: Path
    block_size: int
    used: frozenset[int]
    """By `dumpe2fs`: those that it does not list as free."""
    unused_tables: frozenset[int]
    """By `dumpe2fs`: blocks of the inode tables that hold nothing but unused inodes."""
    unwritten: frozenset[int]
    """By `debugfs`: blocks of preallocated extents; with bigalloc, those that fill a cluster."""


def content(number: int) -> bytes:
    """The content of the file with that number."""
    source = random.Random(number)
    return source.randbytes(source.randrange(1, 100_000))


def write_tree(where: Path) -> Path:
    """Make what goes into each file system: files, links, a long attribute, and one full of the marker."""
    (where / "folder").mkdir(parents=True)
    for number in range(FILES):
        (where / f"file{number:02}").write_bytes(content(number))
    (where / "marker").write_bytes(MARKER * (5 * MIB // len(MARKER)))
    (where / "short").symlink_to("file01")
    (where / "long").symlink_to("folder/" * 20)
    (where / "folder" / "small").write_bytes(b"small enough for an inode\n")
    os.setxattr(where / "file01", "user.long", b"a" * 600)
    for path in (where, *where.rglob("*")):
        os.utime(path, (NOW, NOW), follow_symlinks=False)
    return where


def make(path: Path, variant: str, tree: Path, *more: str) -> Path:
    """Make a file system, delete the marker and each third file, preallocate, and do what else `debugfs` is told."""
    options = VARIANTS[variant].split()
    fixed = ["-U", FIXED_UUID, "-E", f"hash_seed={FIXED_UUID}"]
    run("mke2fs", "-q", "-F", *fixed, *options, "-d", str(tree), str(path), f"{SIZE // 1024}k")
    change(path, "rm marker", *(f"rm file{number:02}" for number in DELETED), *_preallocate(variant), *more)
    if variant == "quota":
        # debugfs keeps no account.
        run("e2fsck", "-fy", str(path), accepts=lambda status: status == 1)
    if variant == "mmp":
        # debugfs waits eleven seconds for other hosts.
        run("tune2fs", "-O", "mmp", str(path))
    return path


def has_extents(variant: str) -> bool:
    return not variant.startswith(("ext2", "ext3"))


def _preallocate(variant: str) -> Iterator[str]:
    """Give blocks to a file behind its content, to a file in one piece, and to one in pieces."""
    if has_extents(variant):
        yield "fallocate file01 200 299"
    if has_extents(variant) and variant != "inline_data":
        yield from ("write /dev/null whole", "fallocate whole 0 99")
        yield from ("write /dev/null pieces", "fallocate pieces 0 299")
        for block in range(1, 300, 3):
            yield f"punch pieces {block} {block}"


def change(path: Path, *commands: str) -> None:
    done = subprocess.run(
        ["debugfs", "-w", "-f", "-", str(path)],
        input="\n".join(commands),
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | FIXED_TIME,
    )
    answers = [line for line in done.stderr.splitlines() if not line.startswith("debugfs ")]
    assert not answers, answers


def looked_at(path: Path) -> Filled:
    """Ask `dumpe2fs` which blocks are free, and which parts of inode tables unused."""
    said = run("dumpe2fs", str(path))
    block_size, blocks = _number(said, "Block size"), _number(said, "Block count")
    # Of a free run, the first block of its last cluster is printed as its end.
    cluster = _number(said, "Cluster size", block_size) // block_size
    inode_size, inodes = _number(said, "Inode size", 128), _number(said, "Inodes per group")
    free: set[int] = set()
    unused: set[int] = set()
    table = range(0)
    for line in said.splitlines():
        if line.startswith("  Free blocks: "):
            for first, last in re.findall(r"(\d+)(?:-(\d+))?", line):
                free.update(range(int(first), int(last or first) + cluster))
        elif found := re.search(r"Inode table at (\d+)-(\d+)", line):
            table = range(int(found[1]), int(found[2]) + 1)
        elif found := re.search(r"free inodes.* (\d+) unused inodes", line):
            unused.update(table[-(-(inodes - int(found[1])) * inode_size // block_size) :])
    unwritten = _unwritten(path, cluster)
    return Filled(path, block_size, frozenset(range(blocks)) - free, frozenset(unused), unwritten)


def _unwritten(path: Path, cluster: int) -> frozenset[int]:
    commands = "\n".join(f"dump_extents -l {name}" for name in ("file01", "whole", "pieces"))
    said = subprocess.run(["debugfs", "-f", "-", str(path)], input=commands, capture_output=True, text=True, check=True)
    found: set[int] = set()
    for first, last in re.findall(r" (\d+) - +(\d+) +\d+ Uninit", said.stdout):
        found.update(range(-(-int(first) // cluster) * cluster, (int(last) + 1) // cluster * cluster))
    return frozenset(found)


def _number(said: str, name: str, default: int = 0) -> int:
    found = re.search(rf"^{name}:\s+(\d+)", said, re.MULTILINE)
    return int(found[1]) if found else default


@contextmanager
def opened(path: Path, changes: Mapping[int, bytes] | None = None) -> Iterator[Reader]:
    """Read an image as if the bytes at those offsets were others."""
    with path.open("rb") as file:

        def read(offset: int, length: int) -> bytes:
            raw = bytearray(os.pread(file.fileno(), length, offset))
            assert len(raw) == length, "the parser reads beyond the end"
            for place, new in (changes or {}).items():
                for index, byte in enumerate(new):
                    if 0 <= place + index - offset < length:
                        raw[place + index - offset] = byte
            return bytes(raw)

        yield read


def used(path: Path, changes: Mapping[int, bytes] | None = None) -> UsedBlocks:
    with opened(path, changes) as read:
        return used_blocks(read, path.stat().st_size)


def blocks_of(found: UsedBlocks, block_size: int) -> frozenset[int]:
    return frozenset(
        block for each in found.extents for block in range(each.offset // block_size, each.end // block_size)
    )


def restore(path: Path, found: UsedBlocks) -> Path:
    """Make the image that comes back: outside of the map it reads as zeros."""
    copy = path.with_name(path.name + ".restored")
    with path.open("rb") as source, copy.open("wb") as file:
        file.truncate(path.stat().st_size)
        for each in found.extents:
            source.seek(each.offset)
            file.seek(each.offset)
            file.write(source.read(each.length))
    return copy


def run(*argv: str, accepts: Callable[[int], bool] = lambda status: status == 0) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=False, env=os.environ | FIXED_TIME)
    assert accepts(done.returncode), f"{argv}: {done.returncode}, {done.stdout}{done.stderr}"
    return done.stdout
