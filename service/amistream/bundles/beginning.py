"""Reads the first bytes of a bundle's image, without the rest: enough to see how its disk begins."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from amistream.bundles.parts import StoredPart
from amistream.bundles.place import Bundle
from amistream.flow.cancel import finish_despite_cancel
from amistream.keys import BundleKey
from amistream.stages.back.decrypt import Decrypt
from amistream.stages.back.flaw import FlawError
from amistream.stages.back.inflate import Inflate
from amistream.stages.back.unarchive import Unarchive
from amistream.values import KIB, MIB

BEGINNING = 64 * KIB
_RANGE = MIB
_MOST_READ = 8 * MIB
"""Bytes of parts. The map of a sparse file with many extents comes before its data."""
_MOST_MADE = 256 * MIB
"""Bytes of the archive, which may be packed a thousand times as small."""


async def read_beginning(bundle: Bundle, key: BundleKey, parts: Sequence[StoredPart]) -> bytes | None:
    """The first `BEGINNING` bytes of the image; None where they cannot be had from the first few MiB of the parts.

    Nothing is proved: the pass over all parts does that. Raises `StoreError`.
    """
    image = _Beginning(key, min(BEGINNING, bundle.manifest.size))
    left = _MOST_READ
    for part in parts:
        for offset in range(0, part.size, _RANGE):
            if left <= 0:
                return None
            data = await bundle.place.store.read(part.name, offset, min(_RANGE, part.size - offset, left))
            left -= _RANGE
            if await finish_despite_cancel(asyncio.to_thread(image.feed, data)):
                return image.data
    return image.data if image.ends() else None


class _Beginning:
    """Unpacks until the first bytes of the image are known."""

    def __init__(self, key: BundleKey, size: int) -> None:
        self._decrypt = Decrypt(key=key.key.reveal(), iv=key.iv.reveal())
        self._inflate = Inflate()
        self._archive = Unarchive()
        self._made = 0
        self._bytes = bytearray(size)
        self._is_whole = False

    @property
    def data(self) -> bytes | None:
        return bytes(self._bytes) if self._is_whole else None

    def feed(self, data: bytes) -> bool:
        """Take bytes of the parts; True once no more are needed."""
        try:
            return any(self._take(made) for plain in self._decrypt.feed(data) for made in self._inflate.feed(plain))
        except FlawError:
            return True

    def ends(self) -> bool:
        """Take the end of the parts; True if the image ended well before that: what is not there is zeros."""
        try:
            for plain in self._decrypt.finish():
                for made in self._inflate.feed(plain):
                    self._take(made)
        except FlawError:
            return False
        self._is_whole = True
        return True

    def _take(self, made: bytes) -> bool:
        self._made += len(made)
        for piece in self._archive.feed(made):
            end = min(piece.offset + len(piece), len(self._bytes))
            if piece.offset < end:
                self._bytes[piece.offset : end] = piece.data[: end - piece.offset]
            # Pieces ascend: what is not there by now is zeros.
            if piece.offset + len(piece) >= len(self._bytes):
                self._is_whole = True
                return True
        return self._made > _MOST_MADE
