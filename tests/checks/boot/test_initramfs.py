"""Names in an initramfs, packed in every way that the kernel unpacks, and in ways that it does not."""

from __future__ import annotations

import bz2
import gzip
import lzma
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
import zstandard

from amistream.checks.boot import initramfs
from amistream.source.disks.files import File, Kind, Node
from amistream.source.disks.reading import DoubtError
from checks.boot.good_system import newc

NOISE = random.Random(14)
FILES = {f"lib/modules/{number}.ko": NOISE.randbytes(9_001 + number) for number in range(20)}
ARCHIVE = newc(FILES)
EARLY = newc({"kernel/x86/microcode/AuthenticAMD.bin": NOISE.randbytes(501)})
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes,
    "gzip": gzip.compress,
    "xz": lambda data: lzma.compress(data, check=lzma.CHECK_CRC32, preset=0),
    "lzma": lambda data: lzma.compress(data, lzma.FORMAT_ALONE, preset=0),
    "bzip2": bz2.compress,
    "zstd": zstandard.compress,
}


@dataclass
class Content:
    """A file system that holds one file."""

    data: bytes
    root = 1

    def node(self, number: int) -> Node:
        return Node(number=number, kind=Kind.FILE, size=len(self.data), has_attributes=False)

    def entries(self, _directory: Node) -> Iterator[tuple[str, int]]:
        return iter(())

    def content(self, _file: Node, offset: int, length: int) -> bytes:
        return self.data[offset : offset + length]


def names(data: bytes) -> list[str]:
    content = Content(data)
    return list(initramfs.names(File("/initrd", content.node(1), content)))


packed = pytest.mark.parametrize("pack", PACKERS.values(), ids=PACKERS)


@packed
def test_archives_one_behind_the_other(pack: Callable[[bytes], bytes]) -> None:
    """The names of all archives are found, whatever packs them and however many zeros lie between."""
    early = ["kernel/x86/microcode/AuthenticAMD.bin"]
    assert names(pack(ARCHIVE)) == list(FILES)
    assert names(EARLY + bytes(700) + pack(ARCHIVE) + bytes(4)) == [*early, *FILES]
    assert names(EARLY + bytes(-len(EARLY) % 512) + EARLY + pack(EARLY + ARCHIVE)) == [*early * 3, *FILES]
    assert names(pack(ARCHIVE) + bytes(8) + pack(EARLY)) == [*FILES, *early]


@packed
def test_cut_short(pack: Callable[[bytes], bytes]) -> None:
    """An archive that ends in the middle is a doubt, wherever it ends."""
    whole = pack(ARCHIVE)
    for length in (7, 100, len(whole) // 2, len(whole) - 150, len(whole) - 5):
        with pytest.raises(DoubtError):
            names(EARLY + whole[:length])


@packed
def test_flipped(pack: Callable[[bytes], bytes]) -> None:
    """A damaged archive has names, or is a doubt, and nothing else."""
    whole = pack(ARCHIVE)
    for seed in range(40):
        data, chance = bytearray(whole), random.Random(seed)
        for _ in range(20):
            data[chance.randrange(200 if seed % 2 else len(data))] ^= 1 << chance.randrange(8)
        try:
            names(bytes(data))
        except DoubtError:
            continue


@packed
def test_bomb(pack: Callable[[bytes], bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    """An archive that unpacks to more than is sensible is a doubt, as is one with too many names."""
    monkeypatch.setattr(initramfs, "MOST_UNPACKED", 2 << 20)
    monkeypatch.setattr(initramfs, "MOST_PACKED", 2 << 20)
    monkeypatch.setattr(initramfs, "MOST_NAMES", 1000)
    with pytest.raises(DoubtError, match="MiB"):
        names(pack(newc({"zeros": bytes(3 << 20)})))
    with pytest.raises(DoubtError, match="more than 1000 names"):
        names(pack(newc({f"{number}": b"" for number in range(1001)})))


@packed
def test_many_bombs(pack: Callable[[bytes], bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    """The limits are for all archives of a file together."""
    monkeypatch.setattr(initramfs, "MOST_UNPACKED", 2 << 20)
    monkeypatch.setattr(initramfs, "MOST_PACKED", 2 << 20)
    monkeypatch.setattr(initramfs, "MOST_NAMES", 1000)
    with pytest.raises(DoubtError, match="MiB"):
        names(pack(newc({"zeros": bytes(1 << 20)})) * 3)
    with pytest.raises(DoubtError, match="more than 1000 names"):
        names(pack(newc({f"{number}": b"" for number in range(501)})) * 2)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"\x02\x21\x4c\x18" + bytes(20), "lz4"),
        (b"\x89LZO\0\r\n\x1a\n", "lzo"),
        (b"#!/bin/sh", "format is not known"),
        (gzip.compress(b"#!/bin/sh"), "something else than an archive"),
        (EARLY[:-300] + b"x" * 300, "header"),
        (b"070701" + b"g" * 200, "damaged header"),
        (b"070701" + b"f" * 200, "a name of"),
        (EARLY * 65, "more than 64 archives"),
    ],
    ids=["lz4", "lzo", "no format", "no archive", "no header", "no number", "long name", "many archives"],
)
def test_not_read(data: bytes, why: str) -> None:
    """A form that is not read is a doubt that names it."""
    with pytest.raises(DoubtError, match=why):
        names(data)


def test_nothing() -> None:
    """An empty file, and one of zeros, hold no names."""
    assert names(b"") == names(bytes(5000)) == []
