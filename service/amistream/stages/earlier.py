"""Earlier: the blocks of a snapshot that earlier passes put, in less than 40 bytes each where most are there.

A snapshot of one TiB has two million blocks, for which a dictionary takes hundreds of MiB.
"""

from __future__ import annotations

from collections.abc import Iterator

_PIECE = 64
"""Neighbouring blocks whose digests share one piece of memory."""
_DIGEST = 32
_INTENDED, _STORED = 1, 2


class Earlier:
    """Each block is `stored` with the SHA-256 that was acknowledged, or `intended`.

    An intended block may hold anything, because a put was not acknowledged, also one that had been stored before.
    """

    def __init__(self) -> None:
        self._pieces: dict[int, tuple[bytearray, bytearray]] = {}
        """States and digests of `_PIECE` blocks, by the number of the piece."""

    def intend(self, index: int) -> None:
        states, _, place = self._at(index)
        states[place] = _INTENDED

    def store(self, index: int, digest: bytes) -> None:
        states, digests, place = self._at(index)
        states[place] = _STORED
        digests[place * _DIGEST : (place + 1) * _DIGEST] = digest

    def __iter__(self) -> Iterator[tuple[int, bytes | None]]:
        """Indices, ascending, each with its SHA-256; None for those that are intended."""
        for number in sorted(self._pieces):
            states, digests = self._pieces[number]
            for place, state in enumerate(states):
                if state:
                    digest = bytes(digests[place * _DIGEST : (place + 1) * _DIGEST]) if state == _STORED else None
                    yield number * _PIECE + place, digest

    def _at(self, index: int) -> tuple[bytearray, bytearray, int]:
        number, place = divmod(index, _PIECE)
        piece = self._pieces.get(number)
        if piece is None:
            piece = self._pieces[number] = bytearray(_PIECE), bytearray(_PIECE * _DIGEST)
        return *piece, place
