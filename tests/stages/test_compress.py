"""Compress and join: independent blocks in one gzip member, checked with gzip, zlib and tarfile."""

from __future__ import annotations

import hashlib
import io
import itertools
import random
import sys
import tarfile
import threading
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from isal import isal_zlib

from amistream.stages.archive import Archive
from amistream.stages.compress import Deflate, DeflatedBlock, deflate_block, store_block
from amistream.stages.join import GzipMember
from amistream.stages.level import level_number
from amistream.values import MIB, Buffer, ChangedError, GzipPlace, GzipResult
from stages.transform_check import Outcome, ask, carry, check_transform, cut_data

TEXT = b"".join(b"%06d the quick brown fox %x jumps over the lazy dog\n" % (n, n * n) for n in range(5000))
LEVELS = [*map(str, range(1, 10)), "fast", "balanced", "small"]


def inflate_one_member(stream: bytes) -> bytes:
    """Inflate a gzip stream that must be one complete member; zlib checks CRC-32 and length."""
    member = zlib.decompressobj(wbits=31)
    data = member.decompress(stream)
    assert member.eof
    assert member.unused_data == b""
    return data


def gzipped(blocks: Sequence[Sequence[Buffer]], level: int | None = 1) -> tuple[bytes, GzipResult]:
    assert level is not None
    member = GzipMember()
    output = carry(member, [deflate_block(level, block) for block in blocks])
    return output, member.result()


def runner(level: int) -> Callable[[Sequence[Buffer]], Outcome]:
    """One block whose buffers are cut: the deflated bytes may differ, but not the inflated ones."""

    def run(pieces: Sequence[Buffer]) -> Outcome:
        output, result = gzipped([pieces], level)
        assert result.size_out == len(output)
        return Outcome(inflate_one_member(output), (result.crc32, result.size_in))

    return run


@pytest.mark.parametrize("level", [1, 4, 9], ids=["isal", "zlib-ng", "zlib"])
@settings(deadline=None)
@given(data_and_cuts=cut_data())
def test_cuts(level: int, data_and_cuts: tuple[bytes, list[int]]) -> None:
    """Any cuts of a block's buffers inflate to the same bytes, with the same CRC-32 and size."""
    data, cuts = data_and_cuts
    outcome = check_transform(runner(level), data, cuts)
    assert outcome == Outcome(data, (zlib.crc32(data), len(data)))


@settings(deadline=None)
@given(st.lists(st.binary(max_size=300), max_size=12), st.sampled_from(range(1, 10)))
def test_blocks_join(blocks: list[bytes], level: int) -> None:
    """Any blocks, even empty ones, joined in order are one gzip member."""
    output, result = gzipped([[block] for block in blocks], level)
    data = b"".join(blocks)
    assert inflate_one_member(output) == data
    assert result == GzipResult(crc32=zlib.crc32(data), size_in=len(data), size_out=len(output))


@pytest.mark.parametrize("name", LEVELS)
def test_every_level(name: str) -> None:
    """At every level, number or name, gzip accepts and inflates the member."""
    output, _ = gzipped([[TEXT[:100_000]], [TEXT[100_000:]]], level_number(name))
    ask("gzip", "--test", given=output)
    assert ask("gzip", "-dc", given=output) == TEXT
    assert len(output) < len(TEXT) / 2


def test_named_levels() -> None:
    """Each of fast, balanced and small makes a program smaller than the one before."""
    program = Path(sys.executable).resolve().read_bytes()[: 4 * MIB]
    sizes = [len(gzipped([[program]], level_number(name))[0]) for name in ("fast", "balanced", "small")]
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == 3


@pytest.mark.parametrize("name", ["0", "10", "-1", "best", "", "FAST", "1.5"])
def test_bad_level(name: str) -> None:
    """A level that is neither a name nor 1 to 9 is refused."""
    with pytest.raises(ValueError, match=r"levels go from 1 to 9|invalid literal"):
        level_number(name)


@pytest.mark.parametrize("level", range(1, 10))
@pytest.mark.parametrize("data", [b"", b"x", TEXT[:1000], bytes(MIB)], ids=["empty", "one", "text", "zeros"])
def test_block_is_independent(level: int, data: bytes) -> None:
    """A block inflates alone, ends at a byte boundary and does not end the stream."""
    block = deflate_block(level, [data])
    raw = b"".join(block.data)
    inflate = zlib.decompressobj(wbits=-15)
    assert inflate.decompress(raw) == data
    assert not inflate.eof
    assert inflate.decompress(b"\x03\x00") == b""
    assert inflate.eof
    assert (block.crc32, block.size_in, len(block)) == (zlib.crc32(data), len(data), len(raw))


@pytest.mark.parametrize("level", [1, 2, 3])
def test_the_same_bytes_wherever_the_compressor_lies(level: int) -> None:
    """A block's compressed form does not depend on the address of the compressor's state.

    ISA-L takes that for data once, at the third byte: a block whose first bytes have the same hash as the address then
    came out otherwise. 2**16 beginnings have every hash that there is.
    """
    noise = random.Random(1).randbytes(700)

    def all_beginnings() -> list[bytes]:
        beginnings = (number.to_bytes(4, "little") for number in range(1 << 16))
        blocks = (deflate_block(level, [each + noise[:100] + each + noise]) for each in beginnings)
        return [hashlib.sha1(b"".join(block.data)).digest() for block in blocks]

    first = all_beginnings()
    others_that_lie_there = [isal_zlib.compressobj(level) for _ in range(8)]
    assert all_beginnings() == first
    del others_that_lie_there


def test_any_completion_order() -> None:
    """Blocks deflated on several threads, finished last first, join in the volume's order."""
    pieces = [TEXT[start : start + 50_000] for start in range(0, len(TEXT), 50_000)]
    done = [threading.Event() for _ in range(len(pieces) + 1)]
    done[-1].set()
    finished = []

    def work(number: int) -> DeflatedBlock:
        block = deflate_block(4, [pieces[number]])
        assert done[number + 1].wait(30)
        finished.append(number)
        done[number].set()
        return block

    with ThreadPoolExecutor(len(pieces)) as pool:
        blocks = list(pool.map(work, range(len(pieces))))
    assert finished == list(reversed(range(len(pieces))))
    assert inflate_one_member(carry(GzipMember(), blocks)) == TEXT


def test_no_block() -> None:
    """A member without blocks is an empty file to gzip."""
    member = GzipMember()
    output = carry(member, [])
    assert ask("gzip", "-dc", given=output) == b""
    assert member.result() == GzipResult(crc32=0, size_in=0, size_out=len(output))


@pytest.mark.parametrize("level", [1, 4, 9])
def test_header(level: int) -> None:
    """The header is the shortest possible at every level: no name, time, comment or extra field."""
    output, _ = gzipped([[b"abc"]], level)
    assert output[:10].hex(" ") == "1f 8b 08 00 00 00 00 00 00 ff"
    assert inflate_one_member(output) == b"abc"


def test_trailer() -> None:
    """The last eight bytes are the CRC-32 and the size of the input, little-endian."""
    output, _ = gzipped([[b"123456789"]])
    assert output[-8:] == bytes.fromhex("2639f4cb09000000")


def test_over_4_gib() -> None:
    """Beyond 4 GiB the trailer holds the size modulo 2**32 and the CRC-32 of everything."""
    zeros = bytes(64 * MIB)
    block = deflate_block(1, [zeros])
    tail = deflate_block(1, [b"the end"])
    member = GzipMember()
    output = carry(member, [*itertools.repeat(block, 64), tail])
    crc = 0
    for _ in range(64):
        crc = isal_zlib.crc32(zeros, crc)
    crc = zlib.crc32(b"the end", crc)
    assert member.result() == GzipResult(crc32=crc, size_in=2**32 + 7, size_out=len(output))
    assert output[-8:] == crc.to_bytes(4, "little") + (7).to_bytes(4, "little")


def test_read_by_tarfile() -> None:
    """An archive compressed in blocks is read by Python's tarfile as a stream, as OpenStack's importer does."""
    archive = Archive(name="image", size=len(TEXT), mtime=0)
    tar = carry(archive, [TEXT])
    output, _ = gzipped([[tar[start : start + 4096]] for start in range(0, len(tar), 4096)])
    with tarfile.open(fileobj=io.BytesIO(output), mode="r|gz") as stream:
        member = stream.next()
        assert member is not None
        content = stream.extractfile(member)
        assert content is not None
        assert content.read() == TEXT
        assert stream.next() is None


def deflate(level: int = 1, block_size: int = MIB) -> Deflate:
    return Deflate(lambda: level, block_size=block_size)


def test_zeros_are_compressed_once() -> None:
    """All-zero blocks of one size share their bytes and keep their own numbers."""
    make = deflate()
    first, second = make(0, [bytes(MIB)]), make(2, [memoryview(bytearray(MIB))])
    assert first.data is second.data
    assert (first.number, second.number) == (0, 2)
    assert len(first) < 2000
    assert inflate_one_member(carry(GzipMember(), [first, make(1, [bytes(1000)]), second])) == bytes(2 * MIB + 1000)
    assert make.bytes_by_kind == {"zeros": 2 * MIB + 1000}


def test_what_does_not_get_smaller_is_stored() -> None:
    """Noise is stored, a block with some structure is not, and both inflate."""
    noise = random.Random(5).randbytes(140_000)
    mixed = noise[:70_000] + bytes(70_000)
    make = deflate(6)
    stream = carry(GzipMember(), [make(number, [block]) for number, block in enumerate((noise, mixed, noise))])
    assert inflate_one_member(stream) == noise + mixed + noise
    ask("gzip", "--test", given=stream)
    assert make.bytes_by_kind == {"stored": 280_000, "level 6": 140_000}
    assert len(stream) < 351_000


@settings(deadline=None)
@given(st.lists(st.sampled_from([b"", b"x", bytes(70_000), TEXT[:50_000]]), max_size=6), st.data())
def test_stored_blocks_of_any_size(pieces: list[bytes], data: st.DataObject) -> None:
    """A stored block of any size inflates to its input, and any block may follow it."""
    extra = data.draw(st.binary(max_size=200))
    blocks = [store_block([*pieces, extra]), deflate_block(1, [extra]), store_block([])]
    whole = b"".join(pieces) + extra + extra
    assert inflate_one_member(carry(GzipMember(), blocks)) == whole


def test_the_level_may_change_between_blocks() -> None:
    """Blocks of all levels, zeros and noise form one member."""
    order = itertools.cycle(range(1, 10))
    make = Deflate(lambda: next(order), block_size=MIB)
    parts = [TEXT[:30_000], bytes(5000), random.Random(1).randbytes(40_000), TEXT[30_000:60_000]] * 6
    assert inflate_one_member(
        carry(GzipMember(), [make(number, [part]) for number, part in enumerate(parts)])
    ) == b"".join(parts)
    assert "zeros" in make.bytes_by_kind
    assert "stored" in make.bytes_by_kind


HEAD, TAIL = 10, 10
"""Bytes of the member's header; and of its empty last block and trailer."""
KINDS = st.one_of(
    st.binary(max_size=200),
    st.sampled_from([b"", bytes(3000), TEXT[:5000], TEXT[5000:5001], random.Random(8).randbytes(40_000)]),
)


def place_at(blocks: Sequence[DeflatedBlock], at: int, member: GzipMember | None = None) -> GzipPlace:
    """The place of byte `at` of the blocks' member, taken while its block is fed."""
    member = member or GzipMember()
    for block in blocks:
        list(member.feed(block))
        if member.result().size_out >= at:
            break
    place = member.place(at)
    assert place is not None
    assert place.before.size_out < at <= member.result().size_out
    return place


def numbered(pieces: Sequence[bytes], level: int, *, first: int = 0) -> list[DeflatedBlock]:
    """The blocks of the pieces, numbered from `first`."""
    make = deflate(level)
    return [make(number, [piece]) for number, piece in enumerate(pieces) if number >= first]


@settings(deadline=None)
@given(st.lists(KINDS, min_size=1, max_size=6), st.sampled_from([1, 4, 9]), st.data())
def test_cut_anywhere_and_gone_on_with(pieces: list[bytes], level: int, data: st.DataObject) -> None:
    """A member resumed at any place yields exactly the missing bytes, and the same result."""
    blocks = numbered(pieces, level)
    first = GzipMember()
    whole = carry(first, blocks)
    at = data.draw(st.integers(1, len(whole) - TAIL))
    place = place_at(blocks, at)
    again = numbered(pieces, level, first=place.block)
    second = GzipMember(place)
    assert whole[:at] + carry(second, again) == whole
    assert second.result() == first.result()
    assert inflate_one_member(whole) == b"".join(pieces)


def test_every_place_of_a_small_member() -> None:
    """A member can be resumed in the header, in any kind of block, and at its very end."""
    pieces = [TEXT[:50], bytes(50), random.Random(8).randbytes(32_800), b"", TEXT[50:90]]
    blocks = numbered(pieces, 1)
    assert len(blocks[2]) > 32_800, "noise is stored"
    whole = carry(GzipMember(), blocks)
    noise = HEAD + len(blocks[0]) + len(blocks[1])
    for at in [*range(1, noise + 20), *range(noise + 32_790, len(whole) - TAIL + 1)]:
        place = place_at(blocks, at)
        again = numbered(pieces, 1, first=place.block)
        assert whole[:at] + carry(GzipMember(place), again) == whole, at


def test_a_place_goes_on_to_the_next() -> None:
    """A place in a resumed member can be resumed from too."""
    pieces = [TEXT[start : start + 4000] for start in range(0, 20_000, 4000)]
    blocks = numbered(pieces, 4)
    size = HEAD + sum(map(len, blocks))
    middle, later = (place_at(blocks, at) for at in (size // 3, 2 * size // 3))
    again = numbered(pieces, 4, first=middle.block)
    assert place_at(again, 2 * size // 3, GzipMember(middle)) == later


def test_no_place_in_the_trailer() -> None:
    """Before the first block and after the last there is no place to resume from."""
    member = GzipMember()
    assert member.place(0) is None
    (block,) = numbered([TEXT[:100]], 1)
    size = sum(map(len, member.feed(block)))
    assert member.place(size) is not None
    (end,) = member.finish()
    assert member.place(size) is None
    assert member.place(size + len(end)) is None


@settings(deadline=None, max_examples=60)
@given(st.sampled_from([TEXT[:5000], bytes(3000), TEXT[:9] * 40]), st.data())
def test_another_deflated_form_is_found(piece: bytes, data: st.DataObject) -> None:
    """A block deflated differently before the place is an error, and is not yielded."""
    (block,) = numbered([piece], 1)
    at = data.draw(st.integers(HEAD + 1, HEAD + len(block)))
    raw = bytearray(b"".join(block.data))
    raw[data.draw(st.integers(0, at - HEAD - 1))] ^= 1
    made: list[Buffer] = []
    with pytest.raises(ChangedError, match="block 0 is not deflated as it was"):
        made.extend(GzipMember(place_at([block], at)).feed(replace(block, data=[bytes(raw)])))
    assert made == []


def test_levels_of_an_earlier_pass_come_again() -> None:
    """Blocks get the levels that they had, others the current one."""
    asked: list[int] = []

    def level() -> int:
        asked.append(9)
        return 9

    make = Deflate(level, block_size=MIB, levels={2: 1, 3: 4, 9: 6})
    blocks = [make(number, [TEXT[:50_000]]) for number in range(2, 5)]
    assert [(block.level, block.number, block.size_in) for block in blocks] == [
        (1, 2, 50_000),
        (4, 3, 50_000),
        (9, 4, 50_000),
    ]
    assert asked == [9]
    assert make.bytes_by_kind == {"level 1": 50_000, "level 4": 50_000, "level 9": 50_000}


def test_levels_are_told_once() -> None:
    """Each call returns the levels of the blocks since the last call, and of the block before them."""
    order = iter((1, 4, 6, 9, 2))
    make = Deflate(lambda: next(order), block_size=MIB)
    member = GzipMember()
    assert member.take_levels() == {}
    for number in range(2):
        list(member.feed(make(number, [TEXT[:1000]])))
    assert member.take_levels() == {0: 1, 1: 4}
    assert member.take_levels() == {1: 4}
    for number in range(2, 4):
        list(member.feed(make(number, [TEXT[:1000]])))
    list(member.feed(make(4, [bytes(1000)])))
    assert member.take_levels() == {1: 4, 2: 6, 3: 9, 4: 0}
    assert member.take_levels() == {4: 0}


def test_levels_of_an_earlier_pass_are_not_told() -> None:
    """A resumed member returns levels from its own first block on."""
    pieces = [TEXT[:3000], TEXT[3000:6000], TEXT[6000:9000]]
    blocks = numbered(pieces, 1)
    member = GzipMember(place_at(blocks, HEAD + len(blocks[0]) + 1))
    for block in numbered(pieces, 1, first=1):
        list(member.feed(block))
    assert member.take_levels() == {1: 1, 2: 1}
