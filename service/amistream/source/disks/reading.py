"""Reading for the parsers here: a function that gives bytes, and the error for tables that cannot be trusted.

A disk may come from anybody. So every parser checks each number before it is used, and reads and remembers no more than
the disk's size explains.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

Reader: TypeAlias = Callable[[int, int], bytes]
"""`read(offset, length)` returns exactly `length` bytes. Raises `DoubtError` for a range that is not all within."""


class DoubtError(Exception):
    """Tables that contradict each other, or that no parser here understands: nothing may be left out.

    The text is a clause with its subject: "the block bitmap of group 3 has a wrong checksum".
    """


class NotUnderstoodError(DoubtError):
    """Tables that may well be right, of a kind that no parser here understands: no repair changes that."""


def window(read: Reader, start: int, size: int) -> Reader:
    """The reader of the `size` bytes from `start` on, as if there was nothing else."""

    def read_within(offset: int, length: int) -> bytes:
        if offset < 0 or length < 0 or offset + length > size:
            raise DoubtError(f"its tables refer to byte {offset + length}, and it has {size}")
        return read(start + offset, length)

    return read_within
