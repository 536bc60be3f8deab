"""Copies a bundle unchanged to a directory."""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

from amistream.bundles.copying import Begin, copy_bundle, taken_error
from amistream.bundles.meter import Meter, Note
from amistream.bundles.parts import StoredPart, check_digest
from amistream.bundles.place import Bundle
from amistream.errors import RefusedError
from amistream.flow.cancel import finish_despite_cancel
from amistream.host.new_file import NewFile
from amistream.reports import Transferred
from amistream.settings import Settings
from amistream.stores.directory import DirectoryStore
from amistream.units import size_text
from amistream.values import MIB, quoted

PIECE = 16 * MIB
"""Bytes of one ranged read: a part of usual size needs one request."""
_TOKEN = "download"  # noqa: S105 - no password: it marks temporary files

T = TypeVar("T")


async def download(bundle: Bundle, directory: Path, settings: Settings, meter: Meter, note: Note) -> Transferred:
    """Copy the bundle to `directory`, which is created if missing. Raises `AmistreamError`."""
    store = DirectoryStore(directory, token=_TOKEN)

    async def prepare(missing: list[StoredPart]) -> None:
        await _check_space(directory, sum(part.size for part in missing))

    async def fetch(part: StoredPart, begin: Begin) -> None:
        """Read the part into a temporary file, check it, and give it its name. Nothing of a failed one stays."""

        def append(piece: bytes) -> None:
            hasher.update(piece)
            file.write(piece)

        def give_name() -> None:
            file.link()
            begin()

        file, hasher, size = NewFile(directory / part.name, token=_TOKEN), hashlib.sha1(usedforsecurity=False), 0
        with store.failures("write", part.name):
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
            except FileExistsError:
                raise taken_error(store, part.name) from None
            finally:
                await _on_disk(file.close)

    await store.open()
    try:
        async with _alone_in(directory):
            await store.tidy({})
            return await copy_bundle(
                bundle, store, meter, note, prepare=prepare, send=fetch, limit=lambda _: settings.upload_concurrency
            )
    finally:
        await store.close()


async def _on_disk(work: Callable[[], T]) -> T:
    """Run `work` on a thread, to its end even when cancelled."""
    return await finish_despite_cancel(asyncio.to_thread(work))


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
            f"cannot download to {directory}: it needs {size_text(size)}, {size_text(size - free)} more than are free",
            hint=f"free some space: df -h {quoted(directory)}",
            field="destinations",
        )
