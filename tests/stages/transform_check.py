"""The check of every transform: cuts of the input change neither its output nor its result."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from hypothesis import strategies as st

from amistream.flow.relay import Transform
from amistream.values import Buffer


@dataclass(frozen=True)
class Outcome:
    """A transform's output for one input as one piece, and its result."""

    output: bytes
    result: object


Run = Callable[[Sequence[Buffer]], Outcome]


def carry(transform: Transform, items: Iterable[Any]) -> bytes:
    """Feed everything and finish; each output is copied at once, because its maker may reuse it."""
    made = bytearray()
    for item in items:
        for piece in transform.feed(item):
            made += piece
    for piece in transform.finish():
        made += piece
    return bytes(made)


@st.composite
def cut_data(draw: st.DrawFn, max_size: int = 2000) -> tuple[bytes, list[int]]:
    """Bytes, and the places to cut them at."""
    data = draw(st.binary(max_size=max_size))
    return data, sorted(draw(st.lists(st.integers(0, len(data)), max_size=8)))


def cut(data: bytes, cuts: Sequence[int]) -> list[bytes]:
    edges = [0, *cuts, len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


def check_transform(run: Run, data: bytes, cuts: Sequence[int]) -> Outcome:
    """Assert that `data` whole, byte by byte, in random cuts and kinds of buffer gives the same; return it."""
    whole = run([data])
    byte_by_byte: list[Buffer] = [data[at : at + 1] for at in range(len(data))]
    assert run(byte_by_byte) == whole
    pieces = cut(data, cuts)
    assert run(pieces) == whole
    assert run([b"", *pieces, b""]) == whole, "empty pieces count"
    assert run([memoryview(bytearray(piece)) for piece in pieces]) == whole, "the kind of buffer counts"
    return whole


def ask(*argv: str, given: bytes = b"") -> bytes:
    """Return a referee program's output for `given`; it must succeed without a message."""
    done = subprocess.run(argv, input=given, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stderr == b""
    return done.stdout
