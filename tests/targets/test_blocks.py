"""The block writer: pieces of an image, in order, give the same bytes, with holes for zeros."""

from __future__ import annotations

import errno
import fcntl
import os
import random
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from amistream.flow.buffers import BuffersClosedError
from amistream.targets.blocks import ALIGNMENT, BLOCK, IN_FLIGHT, WORTH_WAITING, ZERO_UNIT, BlockWriter

NOISE = random.Random(7).randbytes(2 * BLOCK)
PIECES = st.lists(
    st.tuples(
        st.sampled_from([0, 0, 1, 512, ALIGNMENT, ZERO_UNIT, BLOCK, 3 * BLOCK]),
        st.sampled_from([1, 511, 512, ALIGNMENT, ZERO_UNIT - 1, ZERO_UNIT, WORTH_WAITING, BLOCK, BLOCK + 512]),
        st.booleans(),
    ),
    max_size=12,
)


def write_pieces(writer: BlockWriter, pieces: Iterable[tuple[int, bytes]]) -> None:
    for offset, data in pieces:
        for block in writer.gather(offset, memoryview(data)):
            writer.write(block)
    for block in writer.rest():
        writer.write(block)
    writer.finish()


def written(
    path: Path, size: int, pieces: Iterable[tuple[int, bytes]], *, direct: bool = True
) -> list[tuple[int, int]]:
    """Write the pieces into a new file; returns the runs that were left out."""
    zeros: list[tuple[int, int]] = []
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        os.ftruncate(descriptor, size)
        writer = BlockWriter(descriptor, size, lambda start, end: zeros.append((start, end)), direct=direct)
        write_pieces(writer, pieces)
    finally:
        os.close(descriptor)
    return zeros


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(PIECES, st.integers(0, 5000), st.booleans())
def test_any_pieces(tmp_path: Path, plan: list[tuple[int, int, bool]], rest: int, direct: bool) -> None:
    """Pieces and gaps of any length give the image, and the runs left out are zeros, reported in order."""
    image, pieces = bytearray(), []
    for gap, length, is_noise in plan:
        image += bytes(gap)
        data = NOISE[:length] if is_noise else bytes(length)
        pieces.append((len(image), data))
        image += data
    image += bytes(rest)
    zeros = written(tmp_path / "image", len(image), pieces, direct=direct)
    assert (tmp_path / "image").read_bytes() == image
    end = 0
    for start, until in zeros:
        assert end <= start < until <= len(image)
        assert not any(image[start:until])
        end = until


def test_zeros_become_holes(tmp_path: Path) -> None:
    """Zeros use no disk space, wherever the pieces are cut."""
    image = NOISE[:BLOCK] + bytes(20 * BLOCK) + NOISE[:ZERO_UNIT] + bytes(3 * BLOCK)
    pieces = [(at, image[at : at + 777_777]) for at in range(0, len(image), 777_777)]
    written(tmp_path / "image", len(image), pieces)
    assert (tmp_path / "image").read_bytes() == image
    assert (tmp_path / "image").stat().st_blocks * 512 <= BLOCK + 2 * ZERO_UNIT


def test_a_disk_of_other_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Data of a direct write that the disk refuses takes the page cache, as does all after it."""
    direct: list[bool] = []
    write = os.pwrite

    def refuse(descriptor: int, data: memoryview, offset: int) -> int:
        direct.append(bool(os.O_DIRECT & fcntl.fcntl(descriptor, fcntl.F_GETFL)))
        if direct[-1]:
            raise OSError(errno.EINVAL, "Invalid argument")
        return write(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", refuse)
    written(tmp_path / "image", 2 * BLOCK, [(0, NOISE)])
    assert (tmp_path / "image").read_bytes() == NOISE
    assert direct in ([True, False, False], [False, False])


def test_no_direct_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without direct writes in the file system all data takes the page cache."""
    ask = fcntl.fcntl

    def refuse(descriptor: int, command: int, flags: int = 0) -> int:
        if command == fcntl.F_SETFL and flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, "Invalid argument")
        return ask(descriptor, command, flags)

    monkeypatch.setattr(fcntl, "fcntl", refuse)
    written(tmp_path / "image", 2 * BLOCK, [(0, NOISE)])
    assert (tmp_path / "image").read_bytes() == NOISE


def test_short_writes_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A short write is followed by the rest."""
    write = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda descriptor, data, offset: write(descriptor, data[:100_000], offset))
    written(tmp_path / "image", len(NOISE), [(0, NOISE)], direct=False)
    assert (tmp_path / "image").read_bytes() == NOISE


def test_a_failing_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk error is raised to the caller."""

    def fail(*_: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "pwrite", fail)
    with pytest.raises(OSError, match="Input/output error"):
        written(tmp_path / "image", BLOCK, [(0, NOISE[:BLOCK])])


def test_the_first_block_may_be_kept_back(tmp_path: Path) -> None:
    """The first block can be handed over instead of being written."""
    kept: list[bytes] = []
    descriptor = os.open(tmp_path / "image", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        os.ftruncate(descriptor, len(NOISE))
        writer = BlockWriter(descriptor, len(NOISE), lambda _start, _end: None, direct=False, keep_first=kept.append)
        write_pieces(writer, [(0, NOISE)])
    finally:
        os.close(descriptor)
    assert kept == [NOISE[:BLOCK]]
    assert (tmp_path / "image").read_bytes() == bytes(BLOCK) + NOISE[BLOCK:]


def test_a_stop_lets_go_who_waits_for_a_block(tmp_path: Path) -> None:
    """Gathering waits while all buffers are in use, and ends after a stop."""
    descriptor = os.open(tmp_path / "image", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        writer = BlockWriter(descriptor, 2 * IN_FLIGHT * BLOCK, lambda _start, _end: None)
        all_in_flight = threading.Event()

        def gather() -> None:
            in_flight = 0
            for number in range(2 * IN_FLIGHT):
                for _ in writer.gather(number * BLOCK, memoryview(NOISE[:BLOCK])):
                    in_flight += 1
                    if in_flight == IN_FLIGHT:
                        all_in_flight.set()

        with ThreadPoolExecutor(1) as pool:
            gathering = pool.submit(gather)
            assert all_in_flight.wait(10)
            writer.stop()
            with pytest.raises(BuffersClosedError):
                gathering.result(10)
    finally:
        os.close(descriptor)
