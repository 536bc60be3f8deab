"""Each stage alone on one thread, beside the library call that does its work."""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

from isal import isal_zlib

from amistream.source.file import open_volume
from amistream.stages.archive import Archive
from amistream.stages.compress import Deflate, DeflatedBlock
from amistream.stages.encrypt import Encrypt
from amistream.stages.join import GzipMember
from amistream.stages.read import Read
from amistream.stages.split import Split
from amistream.values import MIB
from benchmarks.bench import Bench, Scenario
from benchmarks.inputs import SEED, warm
from benchmarks.primitives import BLOCK, Aes, deflate, deflater
from benchmarks.results import Column, Outcome
from benchmarks.timing import Cost, alternate

PART_SIZE = 10 * MIB
QUICK, SLOW, SLOWEST = 64, 24, 8
"""Blocks given to a step, by its speed."""

COLUMNS = (
    Column("mb_per_s", "MB/s", ".0f"),
    Column("primitive_mb_per_s", "primitive MB/s", ".0f"),
    Column("cpu_ratio", "CPU / primitive"),
    Column("share_out", "bytes out / in", ".3f"),
)

Blocks = Sequence[bytes]
Work = Callable[[], int]
"""Does its work once and returns the number of bytes that came out."""


def run(bench: Bench) -> Outcome:
    """Each round: every stage and its primitive, one after the other, on the same blocks."""
    volume = bench.inputs.volume(bench.options.size)
    warm(volume)
    outcome = Outcome(
        "stages",
        COLUMNS,
        {"kind": bench.inputs.kind, "size": bench.options.size, "block_size": BLOCK},
        notes=["one thread; blocks evenly taken from the whole volume, in memory; read: from the page cache"],
    )
    for number, figures in enumerate(alternate(bench.options.runs, _variants(volume)), 1):
        bench.say(f"stages: round {number} of {bench.options.runs}")
        for name, row in figures.items():
            outcome.add(name, row)
    return outcome


def _variants(volume: Path) -> dict[str, Callable[[], dict[str, float]]]:
    """Every step by name, in the data path's order."""
    blocks = sample(volume, QUICK)
    size = sum(map(len, blocks))
    made: dict[str, Callable[[], dict[str, float]]] = {
        "read": partial(
            _compare, min(volume.stat().st_size, QUICK * BLOCK), partial(_read, volume), partial(_pread, volume)
        ),
        "archive (SHA-1)": partial(_compare, size, partial(_archive, blocks), partial(_sha1, blocks)),
    }
    for level in range(1, 10):
        part = blocks if level <= 3 else sample(volume, SLOW if level <= 6 else SLOWEST)
        made[f"compress, level {level}"] = _compress(level, part)
    noise = random.Random(SEED).randbytes(BLOCK)
    made["compress, noise"] = _compress(1, [noise] * QUICK)
    made["compress, zeros"] = _compress(1, [bytes(BLOCK)] * QUICK)
    level_1 = Deflate(partial(int, 1), block_size=BLOCK)
    deflated = [level_1(number, [block]) for number, block in enumerate(blocks)]
    made["join (CRC-32 combined)"] = partial(_compare, size, partial(_join, deflated), partial(_crc32, blocks))
    made["encrypt (AES-128-CBC)"] = partial(_compare, size, partial(_encrypt, blocks), partial(_aes, blocks))
    made["split (SHA-1, copy)"] = partial(_compare, size, partial(_split, blocks), partial(_sha1, blocks))
    return made


def sample(volume: Path, count: int) -> Blocks:
    """Up to `count` blocks, evenly taken from the whole volume."""
    size = volume.stat().st_size
    whole = max(1, size // BLOCK)
    with volume.open("rb", buffering=0) as file:
        return [
            os.pread(file.fileno(), BLOCK, whole * number // min(count, whole) * BLOCK)
            for number in range(min(count, whole))
        ]


def _compare(size: int, stage: Work, primitive: Work) -> dict[str, float]:
    """Time both over `size` bytes."""
    ours, theirs = Cost(), Cost()
    with ours.timed():
        out = stage()
    with theirs.timed():
        primitive()
    return {
        "mb_per_s": size / ours.wall_s / 1e6,
        "primitive_mb_per_s": size / theirs.wall_s / 1e6,
        "cpu_ratio": ours.cpu_s / theirs.cpu_s,
        "share_out": out / size,
    }


def _compress(level: int, blocks: Blocks) -> Callable[[], dict[str, float]]:
    def stage() -> int:
        make = Deflate(partial(int, level), block_size=BLOCK)
        return sum(len(make(0, [block])) for block in blocks)

    def primitive() -> int:
        make = deflater(level)
        return sum(len(piece) for block in blocks for piece in deflate(make, block))

    return partial(_compare, sum(map(len, blocks)), stage, primitive)


def _read(path: Path) -> int:
    buffer = memoryview(bytearray(BLOCK))
    done = 0
    with closing(open_volume(path)) as volume:
        reader = Read(volume)
        last = False
        while not last and done < QUICK * BLOCK:
            block, last = reader.read(buffer)
            done += len(block)
    return done


def _pread(path: Path) -> int:
    buffer = memoryview(bytearray(BLOCK))
    done = 0
    with path.open("rb", buffering=0) as file:
        while done < QUICK * BLOCK and (count := os.preadv(file.fileno(), [buffer], done)):
            done += count
    return done


def _archive(blocks: Blocks) -> int:
    archive = Archive(name="image", size=sum(map(len, blocks)), mtime=0)
    out = sum(len(piece) for block in blocks for piece in archive.feed(block))
    return out + sum(map(len, archive.finish()))


def _sha1(blocks: Blocks) -> int:
    digest = hashlib.sha1(usedforsecurity=False)
    for block in blocks:
        digest.update(block)
    return digest.digest_size


def _join(blocks: Sequence[DeflatedBlock]) -> int:
    member = GzipMember()
    out = sum(len(piece) for block in blocks for piece in member.feed(block))
    return out + sum(map(len, member.finish()))


def _crc32(blocks: Blocks) -> int:
    """The work that joining saves: the CRC-32 of all bytes in sequence."""
    crc = 0
    for block in blocks:
        crc = isal_zlib.crc32(block, crc)
    return crc.bit_length()


def _encrypt(blocks: Blocks) -> int:
    encrypt = Encrypt(key=bytes(16), iv=bytes(16))
    out = sum(len(piece) for block in blocks for piece in encrypt.feed(block))
    return out + sum(map(len, encrypt.finish()))


def _aes(blocks: Blocks) -> int:
    aes = Aes()
    for block in blocks:
        aes.encrypt(block)
    return 0


def _split(blocks: Blocks) -> int:
    buffer = memoryview(bytearray(PART_SIZE))
    split = Split(part_size=PART_SIZE, take_buffer=lambda: buffer)
    out = sum(len(part) for block in blocks for part in split.feed(block))
    return out + sum(map(len, split.finish()))


SCENARIO = Scenario("stages", "each stage alone, and the library's own speed beside it", "1 min", run)
