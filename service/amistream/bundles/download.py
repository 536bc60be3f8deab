"""Copies a bundle unchanged to a directory."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import hashlib
import os
import shutil
import stat
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

from amistream.bundles.copying import Begin, commit, copy_all_parts, refuse_other_manifest, taken_error, transferred
from amistream.bundles.meter import Meter, Note
from amistream.bundles.parts import (
    StoredPart,
    check_digest,
    check_parts,
    existing_names,
)
from amistream.bundles.place import Bundle
from amistream.bundles.results import Transferred
from amistream.errors import RefusedError, StoreError
from amistream.flow.cancel import finish_despite_cancel
from amistream.host.new_file import NewFile
from amistream.settings import Settings
from amistream.stores.directory import DirectoryStore
from amistream.values import MIB

PIECE = 16 * MIB
"""Bytes of one ranged read: a part of usual size needs one request."""


_TOKEN = "download"  # noqa: S105 - no password: it marks temporary files


T = TypeVar("T")


async def download(bundle: Bundle, directory: Path, settings: Settings, meter: Meter, note: Note) -> Transferred:
    """Copy the bundle to `directory`, which is created if missing. Raises `AmistreamError`."""
    started = time.monotonic()
    store = DirectoryStore(directory, token=_TOKEN)
    await store.open()
    try:
        async with _alone_in(directory):
            await store.tidy({})
            parts = await check_parts(bundle)
            meter.begin(len(parts), bundle.manifest.bundled_size)
            await refuse_other_manifest(bundle, store)
            there = await existing_names(store, [part.name for part in parts])
            await _check_space(directory, sum(part.size for part in parts if part.name not in there))

            async def fetch(part: StoredPart, begin: Begin) -> None:
                path = directory / part.name
                try:
                    if part.name not in there:
                        await _fetch(bundle, part, path, begin)
                    elif not await _on_disk(partial(_is_right, path, part)):
                        raise taken_error(store, part.name)
                except FileExistsError:
                    raise taken_error(store, part.name) from None
                except OSError as error:
                    raise _failure(path, error) from error
                meter.done(part.size, kept=part.name in there)

            await copy_all_parts(
                store, bundle.manifest_name, parts, fetch, limit=settings.upload_concurrency, note=note
            )
            await commit(store, bundle.manifest_name, bundle.manifest.raw, parts)
    finally:
        await store.close()
    return transferred(bundle, store, meter, started)


async def _fetch(bundle: Bundle, part: StoredPart, path: Path, begin: Begin) -> None:
    """Read the part into a temporary file, check it, and give it its name. Nothing of a failed one stays."""

    def append(piece: bytes) -> None:
        hasher.update(piece)
        file.write(piece)

    def give_name() -> None:
        file.link()
        begin()

    file = NewFile(path, token=_TOKEN)
    hasher = hashlib.sha1(usedforsecurity=False)
    size = 0
    try:
        await _on_disk(file.open)
        while size < part.size:
            piece = await bundle.place.store.read(part.name, size, min(PIECE, part.size - size))
            if not piece:
                break
            size += len(piece)
            await _on_disk(partial(append, piece))
        check_digest(bundle, part, hasher.digest(), size)
        await _on_disk(give_name)
    finally:
        await _on_disk(file.close)


async def _on_disk(work: Callable[[], T]) -> T:
    """Run `work` on a thread, to its end even when cancelled."""
    return await finish_despite_cancel(asyncio.to_thread(work))


def _is_right(path: Path, part: StoredPart) -> bool:
    # Opening a pipe would block, and so would reading it.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return False
        return hashlib.file_digest(file, lambda: hashlib.sha1(usedforsecurity=False)).digest() == part.sha1


@asynccontextmanager
async def _alone_in(directory: Path) -> AsyncIterator[None]:
    """Lock the directory against a second download, which would write the same temporary files."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RefusedError(
                "directory.busy",
                f"cannot download to {directory}: another download is writing there",
                hint="wait for it, or choose another directory",
                field="destinations",
            ) from None
        except OSError:
            pass  # NFS locks no directory; the temporary files still have O_EXCL
        yield
    finally:
        os.close(descriptor)


async def _check_space(directory: Path, size: int) -> None:
    free = (await asyncio.to_thread(shutil.disk_usage, directory)).free
    if free < size:
        raise RefusedError(
            "directory.full",
            f"cannot download to {directory}: {size} bytes are needed, {free} are free",
            hint=f"free some space: df -h {directory}",
            field="destinations",
        )


def _failure(path: Path, error: OSError) -> StoreError:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return StoreError(
        "directory.full" if full else "directory.failed",
        f"cannot write {path}: {error.strerror}",
        hint=f"free some space: df -h {path.parent}" if full else "check the directory and its permissions",
        field="destinations",
    )
