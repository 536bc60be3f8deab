"""Split: parts of one size but for the last, in borrowed buffers."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amistream.stages.split import Part, Split
from amistream.values import ArchiveResult, Buffer, Checkpoint, GzipPlace, GzipResult, PartDigest, PartMark, SplitResult
from stages.transform_check import Outcome, ask, check_transform, cut_data


class Lender:
    """Lends new buffers and remembers them."""

    def __init__(self, size: int) -> None:
        self._size = size
        self.lent: list[memoryview] = []

    def take(self) -> memoryview:
        self.lent.append(memoryview(bytearray(b"\xee" * self._size)))
        return self.lent[-1]


def split_all(pieces: Sequence[Buffer], part_size: int, spare: int = 0) -> tuple[list[Part], Split, Lender]:
    lender = Lender(part_size + spare)
    split = Split(part_size=part_size, take_buffer=lender.take)
    parts = [part for piece in pieces for part in split.feed(piece)]
    return [*parts, *split.finish()], split, lender


@settings(deadline=None)
@given(cut_data(), st.integers(1, 700))
def test_cuts(data_and_cuts: tuple[bytes, list[int]], part_size: int) -> None:
    """Any cuts of the ciphertext give the same parts, which together are the ciphertext."""
    data, cuts = data_and_cuts

    def run(pieces: Sequence[Buffer]) -> Outcome:
        parts, split, _ = split_all(pieces, part_size)
        return Outcome(b"".join(part.data for part in parts), ([part.digest for part in parts], split.result()))

    outcome = check_transform(run, data, cuts)
    assert outcome.output == data
    wanted = [data[start : start + part_size] for start in range(0, len(data), part_size)]
    digests = [
        PartDigest(index=index, size=len(part), sha1=hashlib.sha1(part).digest()) for index, part in enumerate(wanted)
    ]
    assert outcome.result == (digests, SplitResult(parts=tuple(digests), bundled_size=len(data)))


@pytest.mark.parametrize(
    ("size", "sizes"),
    [
        (0, []),
        (1, [1]),
        (99, [99]),
        (100, [100]),
        (101, [100, 1]),
        (200, [100, 100]),
        (299, [100, 100, 99]),
        (300, [100, 100, 100]),
    ],
)
def test_sizes(size: int, sizes: list[int]) -> None:
    """Every part is full but the last, which is never empty."""
    parts, split, _ = split_all([bytes(size)], 100)
    assert [len(part) for part in parts] == sizes
    assert [part.index for part in split.result().parts] == list(range(len(sizes)))
    assert split.result().bundled_size == size


def test_digests() -> None:
    """A part's SHA-1 equals openssl's."""
    parts, _, _ = split_all([b"some ciphertext"], 10)
    for part in parts:
        assert ask("openssl", "sha1", "-r", given=bytes(part.data)).split()[0].decode() == part.digest.sha1.hex()


@settings(deadline=None)
@given(cut_data(), st.integers(1, 700))
def test_buffers(data_and_cuts: tuple[bytes, list[int]], part_size: int) -> None:
    """Every borrowed buffer leaves with a part, and no more buffers are borrowed than there are parts."""
    data, _ = data_and_cuts
    parts, _, lender = split_all([data], part_size, spare=3)
    assert [part.buffer for part in parts] == lender.lent
    assert all(mine is theirs for mine, theirs in zip((part.buffer for part in parts), lender.lent, strict=True))
    for part in parts:
        assert part.data.obj is part.buffer.obj
        assert part.buffer[len(part) :] == b"\xee" * (part_size + 3 - len(part)), "written beyond the part"


def test_borrowed_late() -> None:
    """A buffer is borrowed only when there are bytes for it."""
    lender = Lender(4)
    split = Split(part_size=4, take_buffer=lender.take)
    assert list(split.feed(b"")) == []
    assert lender.lent == []
    assert [bytes(part.data) for part in split.feed(b"abcd")] == [b"abcd"]
    assert len(lender.lent) == 1
    assert list(split.finish()) == []
    assert len(lender.lent) == 1


def test_input_may_be_reused() -> None:
    """Fed bytes may be overwritten at once: the parts keep their own copy."""
    scratch = bytearray(b"1111")
    split = Split(part_size=6, take_buffer=Lender(6).take)
    assert list(split.feed(scratch)) == []
    scratch[:] = b"2222"
    (part,) = split.feed(scratch)
    scratch[:] = b"3333"
    (last,) = split.finish()
    assert (bytes(part.data), bytes(last.data)) == (b"111122", b"22")


def test_part_comes_at_once() -> None:
    """A part is yielded as soon as it is full, before the rest of the input is read."""
    lender = Lender(2)
    split = Split(part_size=2, take_buffer=lender.take)
    outputs = split.feed(b"aabb")
    assert bytes(next(outputs).data) == b"aa"
    assert len(lender.lent) == 1


@settings(deadline=None)
@given(st.binary(max_size=2000), st.integers(1, 700), st.data())
def test_goes_on_after_any_part(data: bytes, part_size: int, draw: st.DataObject) -> None:
    """A resumed split makes the other parts, under their numbers, with the same result."""
    parts, split, _ = split_all([data], part_size)
    whole_ones = len(data) // part_size
    before = draw.draw(st.integers(0, whole_ones))
    digests = [part.digest for part in parts]
    again = Split(part_size=part_size, take_buffer=Lender(part_size).take, parts_before=digests[:before])
    made = [*again.feed(data[before * part_size :]), *again.finish()]
    assert [part.digest for part in made] == digests[before:]
    assert again.result() == split.result()


def test_marks() -> None:
    """Each part has the mark for its end, made from the size so far and the last 16 bytes."""
    data = bytes(range(250))
    asked: list[tuple[int, bytes]] = []

    def mark(size: int, chain: bytes) -> PartMark:
        asked.append((size, chain))
        place = GzipPlace(block=0, before=GzipResult(crc32=0, size_in=0, size_out=0), inside=size, inside_sha1=b"")
        return PartMark(checkpoint=Checkpoint(gzip=place, archive=ArchiveResult(size=0, sha1=b""), chain=chain))

    before = (PartDigest(index=0, size=100, sha1=b"\0" * 20),)
    split = Split(part_size=100, take_buffer=Lender(100).take, parts_before=before, mark=mark)
    parts = [*split.feed(data[:30]), *split.feed(data[30:]), *split.finish()]
    assert asked == [(200, data[84:100]), (300, data[184:200]), (350, data[234:250])]
    found = [part.mark.checkpoint for part in parts]
    assert [each.gzip.inside for each in found if each] == [200, 300, 350]
    assert [each.chain for each in found if each] == [data[84:100], data[184:200], data[234:250]]


def test_no_mark_where_none_is_asked_for() -> None:
    """Without `mark`, a part's mark is empty."""
    parts, _, _ = split_all([b"abcd"], 2)
    assert [part.mark for part in parts] == [PartMark(), PartMark()]
