"""Runs of a gzip stream, inflated apart and joined, equal the stream inflated in one go, whatever the compressor."""

from __future__ import annotations

import base64
import gzip
import os
import random
import zlib
from collections.abc import Callable, Iterable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amistream.stages.back.cut import HEAD, MARKER, MOST, Cut, Run
from amistream.stages.back.flaw import FlawError
from amistream.stages.back.inflate import Inflate, new_body
from amistream.stages.back.inflate_runs import MOST_APART, InflateRuns, TriedRun, _is_on_bound, inflate_apart
from amistream.stages.compress import Deflate, deflate_block
from amistream.stages.join import GzipMember
from amistream.values import KIB, MIB, Buffer
from stages.transform_check import Outcome, carry, cut

NOISE = os.urandom(3 * MIB)


def runs_of(pieces: Iterable[Buffer]) -> list[Run]:
    cutter = Cut()
    return [run for piece in pieces for run in cutter.feed(piece)] + list(cutter.finish())


def joined(pieces: Sequence[Buffer], apart: Callable[[int], bool] = lambda _: True) -> tuple[Outcome, int]:
    """Inflate the runs of a stream, and count those used of the runs that `apart` chose to try."""
    inflate = InflateRuns()
    begun, counted = 0, 0

    def begin(number: int, run: Run) -> TriedRun:
        nonlocal begun
        if not apart(number) or not inflate.worthwhile:
            return TriedRun(run=run)
        begun += 1
        return TriedRun(run=run, tried=True, apart=inflate_apart(run))

    take_apart = inflate._take_apart

    def count(made: object) -> object:
        nonlocal counted
        counted += 1
        return take_apart(made)  # type: ignore[arg-type] # only passed on

    inflate._take_apart = count  # type: ignore[assignment, method-assign] # to count
    try:
        made = carry(inflate, [begin(number, run) for number, run in enumerate(runs_of(pieces))])
    except FlawError as flaw:
        return Outcome(b"", flaw.code), counted
    return Outcome(made, inflate.result()), counted


def in_one_go(stream: bytes) -> Outcome:
    inflate = Inflate()
    try:
        return Outcome(carry(inflate, [stream]), inflate.result())
    except FlawError as flaw:
        return Outcome(b"", flaw.code)


def ours(data: bytes, *, block_size: int = 64 * KIB, level: int = 1) -> bytes:
    """Make the stream of our own stages."""
    deflate, member = Deflate(lambda: level, block_size=block_size), GzipMember()
    blocks = [
        deflate(number, [data[at : at + block_size]]) for number, at in enumerate(range(0, len(data), block_size))
    ]
    return carry(member, blocks)


def flushed(data: bytes, *, every: int, flush: int = zlib.Z_SYNC_FLUSH) -> bytes:
    """Make a stream that is flushed now and then and refers back across flushes, like that of pigz."""
    packer = zlib.compressobj(6, zlib.DEFLATED, 31)
    made = b"".join(packer.compress(data[at : at + every]) + packer.flush(flush) for at in range(0, len(data), every))
    return made + packer.flush()


def mixed(size: int, seed: int = 0) -> bytes:
    """Make noise, zeros and text in turn."""
    source = random.Random(seed)
    made = bytearray()
    while len(made) < size:
        length = source.randrange(1, 100_000)
        kind = source.randrange(3)
        made += source.randbytes(length) if kind == 0 else bytes(length) if kind == 1 else b"text %d " % length * 2000
    return bytes(made[:size])


def test_ours_is_inflated_apart() -> None:
    """All runs of our own stream are inflated apart, except the first, which has the header."""
    data = mixed(2 * MIB)
    stream = ours(data)
    outcome, counted = joined([stream])
    assert outcome == in_one_go(stream)
    assert outcome.output == data
    assert counted == len(runs_of([stream])) - 1 > 5


@pytest.mark.parametrize("level", [1, 3, 4])
def test_noise_and_text_in_turn(level: int) -> None:
    """Stored blocks, and blocks that refer to their first bytes, do not stop other runs from being inflated apart."""
    texts = [base64.b64encode(NOISE[at : at + 150 * KIB]) for at in range(0, 9 * 100 * KIB, 100 * KIB)]
    data = b"".join(piece[: 200 * KIB] for text in texts for piece in (NOISE, text))
    stream = ours(data, block_size=200 * KIB, level=level)
    outcome, counted = joined([stream])
    assert outcome == in_one_go(stream)
    assert outcome.output == data
    assert counted == len(runs_of([stream])) - 1 > 5


@given(st.sampled_from([1, 2]), st.binary(min_size=100, max_size=1000))
def test_the_first_bytes_of_a_block(level: int, data: bytes) -> None:
    """The first bytes of a block compress to few enough bytes to recognise their flush."""
    found = b"".join(deflate_block(level, [data]).data).index(MARKER)
    assert found + len(MARKER) <= HEAD


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 400_000), st.integers(0, 99), st.lists(st.integers(0, 200_000), max_size=8), st.integers(0, 255))
def test_any_cuts_and_any_luck(size: int, seed: int, cuts: list[int], luck: int) -> None:
    """However the stream is cut, and whichever runs are tried apart, the output is the same."""
    stream = ours(mixed(size, seed), block_size=64 * KIB)
    pieces = cut(stream, sorted(min(at, len(stream)) for at in cuts))
    outcome, _ = joined(pieces, lambda number: bool(luck >> number % 8 & 1))
    assert outcome == in_one_go(stream)


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 3000), st.integers(0, 9))
def test_byte_by_byte(size: int, seed: int) -> None:
    """A stream that arrives byte by byte gives the same output."""
    stream = flushed(mixed(size, seed), every=500, flush=zlib.Z_FULL_FLUSH)
    assert joined([stream[at : at + 1] for at in range(len(stream))])[0] == in_one_go(stream)


@pytest.mark.parametrize("flush", [zlib.Z_SYNC_FLUSH, zlib.Z_FULL_FLUSH])
def test_references_across_runs(flush: int) -> None:
    """Runs that refer to earlier data are inflated in order; those behind a full flush are inflated apart."""
    data = (b"the same words again and again, %d times" * 50 + os.urandom(64)) * 700
    stream = flushed(data, every=40_000, flush=flush)
    outcome, counted = joined([stream])
    assert outcome == in_one_go(stream)
    assert outcome.output == data
    assert (counted > 3) == (flush == zlib.Z_FULL_FLUSH)


@pytest.mark.parametrize("level", [1, 6, 9])
def test_the_older_tools(level: int) -> None:
    """A stream without markers, as gzip writes, is inflated in one go."""
    data = base64.b64encode(NOISE) * 3
    stream = gzip.compress(data, level)
    outcome, counted = joined([stream[at : at + MIB] for at in range(0, len(stream), MIB)])
    assert outcome == in_one_go(stream)
    assert (outcome.output == data, counted) == (True, 0)


def test_markers_by_chance() -> None:
    """Chance markers inside stored blocks cause no error, and later runs are inflated apart again."""
    stored = bytearray(NOISE)
    for at in range(1000, len(stored), 50_000):
        stored[at : at + 4] = MARKER
    for at in range(65535 - 1, len(stored), 65535):
        stored[at] = 0
    data = bytes(stored) + mixed(MIB) + bytes(stored[::-1]) + mixed(MIB)
    stream = ours(data, block_size=256 * KIB)
    outcome, counted = joined([stream[at : at + MIB] for at in range(0, len(stream), MIB)])
    assert outcome == in_one_go(stream)
    assert outcome.output == data
    assert counted > 0


def test_much_out_of_little() -> None:
    """A run whose output is too large to hold is inflated piece by piece in its turn."""
    data = mixed(MIB) + bytes(40 * MIB) + mixed(MIB)
    stream = ours(data, block_size=MIB)
    (large, *_) = runs_of([flushed(bytes(2 * MOST_APART), every=2 * MOST_APART)])
    assert inflate_apart(large) is None
    assert joined([stream])[0].output == data


def test_noise_alone() -> None:
    """Stored blocks are restored, and no run is longer than the maximum."""
    data = NOISE * 4
    stream = ours(data, block_size=2 * MIB)
    assert max(sum(map(len, run)) for run in runs_of([stream[at : at + MIB] for at in range(0, len(stream), MIB)])) <= (
        MOST + MIB
    )
    assert joined([stream[at : at + MIB] for at in range(0, len(stream), MIB)])[0].output == data


@pytest.mark.parametrize("at", [0.1, 0.5, 0.9])
def test_damage(at: float) -> None:
    """A bit flipped anywhere is detected as in a stream inflated in one go."""
    stream = bytearray(ours(mixed(MIB)))
    stream[int(len(stream) * at)] ^= 16
    outcome, _ = joined([bytes(stream)])
    assert outcome == in_one_go(bytes(stream))
    assert isinstance(outcome.result, str)


@pytest.mark.parametrize("more", [b"\0", b"\x1f\x8b", gzip.compress(b"second", mtime=0), bytes(300)])
def test_what_follows(more: bytes) -> None:
    """Data after the member is detected in a run that was inflated apart, too."""
    stream = ours(mixed(300_000)) + more
    outcome, _ = joined([stream])
    assert outcome == in_one_go(stream)
    assert outcome.result in {"gzip.trailing", "gzip.second_member"}


@pytest.mark.parametrize("lacking", [1, 8, 9, 11, 5000])
def test_truncated(lacking: int) -> None:
    """A truncated stream is detected, wherever the last run ends."""
    stream = ours(mixed(300_000))[:-lacking]
    assert joined([stream])[0] == in_one_go(stream) == Outcome(b"", "gzip.truncated")


@pytest.mark.parametrize("begun", [b"\4", b"\0\5\0\xfa\xffab", b"\x4b"])
def test_in_the_middle_of_a_block(begun: bytes) -> None:
    """A decompressor inside a block is not taken for one at a boundary."""
    body = new_body()
    body.decompress(begun, 100)
    assert not _is_on_bound(body)
    assert _is_on_bound(new_body())


@settings(deadline=None)
@given(st.lists(st.sampled_from([MARKER, b"\0", b"\xff", b"\0\0", b"x" * 3000]), max_size=40), st.data())
def test_cut_loses_nothing(words: list[bytes], data: st.DataObject) -> None:
    """The runs joined are the stream, and each except the last ends in a marker."""
    stream = b"".join(words)
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=8).map(sorted))
    runs = [b"".join(run) for run in runs_of(cut(stream, cuts))]
    assert b"".join(runs) == stream
    assert all(run.endswith(MARKER) for run in runs[:-1])


def test_a_marker_across_pieces_is_found() -> None:
    """A marker is found if each of its bytes arrives alone."""
    stream = b"x" * 5000 + MARKER + b"y" * 10
    assert [len(b"".join(run)) for run in runs_of([stream[at : at + 1] for at in range(len(stream))])] == [5004, 10]
