"""Judges what a pass of the pipeline stored, by libraries alone: quick, for many small passes."""

from __future__ import annotations

import asyncio
import hashlib
import io
import tarfile
import threading
import zlib
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CBC

if TYPE_CHECKING:
    from amistream.values import Measured

KEY, IV = bytes(range(16)), bytes(range(16, 32))


async def nothing_runs() -> None:
    """Join workers on their way out; fail when one stays, or when a task was left behind."""
    for thread in threading.enumerate():
        if thread.name.startswith("amistream-worker"):
            await asyncio.to_thread(thread.join, 10)
            assert not thread.is_alive(), f"{thread.name} was left behind"
    names = {task.get_name() for task in asyncio.all_tasks() if not task.done()}
    assert not {name for name in names if name.split()[0] in {"upload", "relay", "put", "intend", "supply"}}, names


def decrypt(ciphertext: bytes) -> bytes:
    cipher = Cipher(AES(KEY), CBC(IV)).decryptor()
    padded = cipher.update(ciphertext) + cipher.finalize()
    assert padded.endswith(bytes([padded[-1]]) * padded[-1])
    assert 1 <= padded[-1] <= 16
    return padded[: -padded[-1]]


def unpack(ciphertext: bytes) -> bytes:
    """Take the image out of the ciphertext with libraries alone: quick, for many small passes."""
    member = zlib.decompressobj(wbits=31)
    tar = member.decompress(decrypt(ciphertext))
    assert member.eof
    assert member.unused_data == b""
    with tarfile.open(fileobj=io.BytesIO(tar), mode="r|") as archive:
        entry = archive.next()
        assert entry is not None
        content = archive.extractfile(entry)
        assert content is not None
        data = content.read()
        assert archive.next() is None
    return data


def check_parts(measured: Measured, objects: dict[str, bytes], part_size: int) -> bytes:
    """Assert that what is stored is what was measured, in parts of one size but the last; return the ciphertext."""
    digests = measured.split.parts
    assert sorted(objects) == sorted(f"image.part.{part.index:02d}" for part in digests)
    parts = [objects[f"image.part.{part.index:02d}"] for part in digests]
    assert [part.index for part in digests] == list(range(len(parts)))
    assert [(part.size, part.sha1) for part in digests] == [(len(part), hashlib.sha1(part).digest()) for part in parts]
    assert {len(part) for part in parts[:-1]} <= {part_size}
    assert 0 < len(parts[-1]) <= part_size
    assert measured.split.bundled_size == sum(map(len, parts))
    return b"".join(parts)
