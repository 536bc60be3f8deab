"""Inflate: restores the data that gzip compressed, and names the flaw of every other stream."""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Sequence

import pytest
from hypothesis import given, settings

from amistream.stages.back.flaw import FlawError
from amistream.stages.back.inflate import LARGEST, Inflate
from amistream.values import Buffer, GzipResult
from stages.transform_check import Outcome, ask, carry, check_transform, cut_data

TEXT = b"a volume is mostly text, text, text and zeros" + bytes(500)


def inflated(pieces: Sequence[Buffer]) -> Outcome:
    inflate = Inflate()
    try:
        return Outcome(carry(inflate, pieces), inflate.result())
    except FlawError as flaw:
        return Outcome(b"", flaw.code)


def member(data: bytes = TEXT, *, flags: int = 0, between: bytes = b"", method: int = 8) -> bytes:
    """Make a gzip member with any bytes between the fixed header and the deflated data."""
    head = bytes([0x1F, 0x8B, method, flags, 0, 0, 0, 0, 0, 3]) + between
    return head + zlib.compress(data, 6, -15) + trailer(data)


def trailer(data: bytes) -> bytes:
    return zlib.crc32(data).to_bytes(4, "little") + (len(data) % 2**32).to_bytes(4, "little")


def flaw_of(stream: bytes) -> object:
    return check_transform(inflated, stream, [1, 9, 11, len(stream) // 2, len(stream) - 1]).result


@settings(deadline=None)
@given(cut_data(max_size=600))
def test_cuts(data_and_cuts: tuple[bytes, list[int]]) -> None:
    """However the stream is cut, the data is restored, with its CRC-32 and sizes."""
    data, cuts = data_and_cuts
    stream = gzip.compress(data)
    outcome = check_transform(inflated, stream, [min(cut, len(stream)) for cut in cuts])
    assert outcome == Outcome(data, GzipResult(crc32=zlib.crc32(data), size_in=len(stream), size_out=len(data)))


@pytest.mark.parametrize("level", ["-1", "-6", "-9"])
@pytest.mark.parametrize("size", [0, 1, LARGEST - 1, LARGEST, LARGEST + 1, 5 * LARGEST])
def test_undoes_gzip(level: str, size: int) -> None:
    """The output of the program gzip is inflated, noise as well as zeros."""
    data = os.urandom(size // 2) + bytes(size - size // 2)
    assert inflated([ask("gzip", level, "-c", given=data)]).output == data


def test_pieces_are_bounded() -> None:
    """A stream that inflates to a thousand times its size yields pieces of bounded size."""
    inflate = Inflate()
    pieces = list(inflate.feed(gzip.compress(bytes(20 * LARGEST))))
    assert max(map(len, pieces)) <= LARGEST
    assert sum(map(len, pieces)) == 20 * LARGEST


def test_headers_that_are_taken() -> None:
    """A name, a comment, a text flag and a header checksum are accepted."""
    for flags, between in ((8, b"disk.img\0"), (16, b"made by hand\0"), (8 | 16 | 1, b"name\0comment\0")):
        assert inflated([member(flags=flags, between=between)]).output == TEXT
    head = bytes([0x1F, 0x8B, 8, 2 | 8, 0, 0, 0, 0, 0, 3]) + b"name\0"
    right = (zlib.crc32(head) & 0xFFFF).to_bytes(2, "little")
    assert check_transform(inflated, member(flags=2 | 8, between=b"name\0" + right), [12, 16]).output == TEXT
    assert flaw_of(member(flags=2 | 8, between=b"name\0\1\2")) == "gzip.header"


@pytest.mark.parametrize(
    ("stream", "code"),
    [
        (b"", "gzip.truncated"),
        (member()[:9], "gzip.truncated"),
        (member()[:40], "gzip.truncated"),
        (member()[:-1], "gzip.truncated"),
        (member()[:-8], "gzip.truncated"),
        (b"PK\3\4" + member(), "gzip.header"),
        (member(method=7), "gzip.header"),
        (member(flags=0x20), "gzip.header"),
        (member(flags=8, between=b"x" * (64 * 1024)), "gzip.header"),
        (member(flags=4, between=b"\4\0abcd"), "gzip.extra_field"),
        (member()[:-8] + bytes(4) + member()[-4:], "gzip.crc"),
        (member()[:-4] + bytes(4), "gzip.size"),
        (member() + member(), "gzip.second_member"),
        (member() + b"\x1f\x8b", "gzip.second_member"),
        (member() + b"\0", "gzip.trailing"),
        (member() + bytes(600), "gzip.trailing"),
        (member()[:10] + b"\7" * 30, "gzip.deflate"),
    ],
)
def test_flaws(stream: bytes, code: str) -> None:
    """Each flaw has its own code, however the stream is cut."""
    assert flaw_of(stream) == code


def test_every_flipped_bit_is_told() -> None:
    """Every flipped bit of the deflated data or the trailer is detected, unless the output is the same."""
    stream = member()
    for at in range(10, len(stream)):
        for bit in range(8):
            changed = stream[:at] + bytes([stream[at] ^ 1 << bit]) + stream[at + 1 :]
            outcome = inflated([changed])
            assert isinstance(outcome.result, str) or outcome.output == TEXT, (at, bit)
