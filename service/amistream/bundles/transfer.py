"""Copies a bundle as it is, from where it lies to a directory or into a bucket: `download` and `upload`.

Each part is proved by its SHA-1 on the way. What is there already and right stays, so that a copying that was cut
short goes on when it is begun again; what is there and is another object is refused before anything is sent. The
manifest goes last. Nothing half-made stays: a part has its name only once it is whole. Whole parts stay after a
failure or cancel of the transport, and go again when the bundle itself turns out to be bad.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import hashlib
import os
import shutil
import stat
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from functools import partial
from io import FileIO
from pathlib import Path
from typing import Protocol, TypeAlias, TypeVar

from amistream.bundles.meter import Meter, Note
from amistream.bundles.parts import (
    SeenPart,
    check_digest,
    differs,
    look_at_parts,
    names_there,
    parts_in_flight,
    read_part,
)
from amistream.bundles.place import Bundle, Place
from amistream.bundles.results import Transferred
from amistream.errors import DifferenceError, RefusedError, StoreError
from amistream.flow.at_once import at_once
from amistream.flow.uncut import uncut
from amistream.flow.undo import Undo
from amistream.settings import Settings
from amistream.stores.directory import DirectoryStore
from amistream.stores.port import Store, Stored, whole_checksum
from amistream.values import MIB

PIECE = 16 * MIB
"""Bytes of one ranged read: a part of the usual size comes with one request."""

LOOK_S = 30
"""Seconds for a look at what is there before something is taken back."""

_TOKEN = "download"  # noqa: S105 - no password: it marks temporary files

Begin: TypeAlias = Callable[[], None]

T = TypeVar("T")


class _Hasher(Protocol):
    def update(self, data: bytes, /) -> None: ...


async def download(bundle: Bundle, directory: Path, settings: Settings, meter: Meter, note: Note) -> Transferred:
    """Copy the bundle to `directory`, which is made when missing. Raises `AmistreamError`."""
    started = time.monotonic()
    store = DirectoryStore(directory, token=_TOKEN)
    await store.open()
    try:
        async with _alone_in(directory):
            await store.tidy({})
            seen = await look_at_parts(bundle)
            meter.begin(len(seen), bundle.manifest.bundled_size)
            await refuse_other_manifest(bundle, store)
            there = await names_there(store, [part.name for part in seen])
            await _check_space(directory, sum(part.size for part in seen if part.name not in there))

            async def fetch(part: SeenPart, begin: Begin) -> None:
                path = directory / part.name
                try:
                    if part.name not in there:
                        await _fetch(bundle, part, path, begin)
                    elif not await _on_disk(partial(_is_right, path, part)):
                        raise taken(store, part.name)
                except FileExistsError:
                    raise taken(store, part.name) from None
                except OSError as error:
                    raise _failure(path, error) from error
                meter.done(part.size, kept=part.name in there)

            await _all_parts(store, bundle.manifest_name, seen, fetch, limit=settings.upload_concurrency, note=note)
            await commit(store, bundle.manifest_name, bundle.manifest.raw, seen)
    finally:
        await store.close()
    return _transferred(bundle, store, meter, started)


async def upload(bundle: Bundle, target: Place, settings: Settings, meter: Meter, note: Note) -> Transferred:
    """Copy the bundle to a place that was checked. Raises `AmistreamError`."""
    started = time.monotonic()
    store = target.store
    seen = await look_at_parts(bundle)
    meter.begin(len(seen), bundle.manifest.bundled_size)
    await refuse_other_manifest(bundle, store)
    there = await find_there(store, seen)
    # Chunks that a killed process left are paid for and seen by nobody: `tidy` looks for names with such a checksum.
    large = [part for part in seen if part.size > settings.multipart_threshold and part.name not in there]
    await store.tidy({part.name: "-1" for part in large})

    async def send(part: SeenPart, begin: Begin) -> None:
        stored = there.get(part.name)
        if stored is not None:
            await require_same(bundle, part, store, stored)
            meter.done(part.size, kept=True)
            return
        data = await read_part(bundle, part)
        begin()
        await store.put(part.name, data, part.sha1, lambda _: None)
        meter.done(part.size)

    await _all_parts(store, bundle.manifest_name, seen, send, limit=parts_in_flight(settings, seen), note=note)
    await commit(store, bundle.manifest_name, bundle.manifest.raw, seen)
    return _transferred(bundle, store, meter, started)


async def find_there(store: Store, seen: list[SeenPart]) -> dict[str, Stored]:
    """Which parts are there already. Raises `StoreError` for one that the store shows to be another object."""
    wanted = {part.name: part for part in seen}
    old = sorted(await names_there(store, list(wanted)))

    async def look(name: str) -> Stored | None:
        stored = await store.stat(name, read=False)
        if stored is not None and (stored.size != wanted[name].size or differs(stored, wanted[name].part)):
            raise taken(store, name)
        return stored

    found = await at_once(look, old)
    return {name: stored for name, stored in zip(old, found, strict=True) if stored is not None}


async def require_same(bundle: Bundle, part: SeenPart, store: Store, stored: Stored) -> None:
    """Raise `StoreError` unless what `find_there` saw of the part's name is the part."""
    # Where the store keeps no checksum the object is read.
    found = stored if stored.checksum is not None else await store.stat(part.name)
    if found is not None and found.checksum == whole_checksum(part.sha1):
        return
    # It may depend on how the part was cut into chunks.
    data = await read_part(bundle, part)
    if found is None or not found.is_the(part.size, await store.checksum(part.name, data, part.sha1)):
        raise taken(store, part.name)


async def refuse_other_manifest(bundle: Bundle, store: Store) -> None:
    """Refuse a place that has another bundle of this name."""
    name, raw = bundle.manifest_name, bundle.manifest.raw
    stored = await store.stat(name, read=False)
    if stored is None or (stored.size == len(raw) and await store.read(name, 0, len(raw)) == raw):
        return
    raise RefusedError(
        "destination.exists",
        f"cannot copy a bundle to {store.location}: another one is there, {name}",
        hint="choose another place; overwriting would break the AMI registered on it",
        field="destinations",
    )


def taken(store: Store, name: str) -> StoreError:
    """The error for a name under which something else is there."""
    return StoreError(
        "store.exists",
        f"cannot store {store.location}/{name}: it exists already, with other content",
        hint="choose another place, or remove what is there: nothing is ever overwritten",
        field="destinations",
    )


async def _all_parts(
    store: Store,
    manifest_name: str,
    seen: list[SeenPart],
    work: Callable[[SeenPart, Begin], Awaitable[None]],
    *,
    limit: int,
    note: Note,
) -> None:
    """Do `work` for every part and tidy up after a failure. It calls `begin` when something of its own comes to be."""
    begun: dict[str, None] = {}
    whole: set[str] = set()

    async def one(part: SeenPart) -> None:
        await work(part, lambda: begun.update({part.name: None}))
        whole.add(part.name)

    try:
        await at_once(one, seen, limit)
    except BaseException as error:
        bad = isinstance(error, DifferenceError)
        await take_back(store, manifest_name, [name for name in begun if bad or name not in whole], note)
        if whole and not bad:
            note(f"{len(whole)} of {len(seen)} parts are in {store.location}; the same command goes on from them")
        raise


async def take_back(
    store: Store, manifest_name: str, names: Iterable[str], note: Note, *, own: bytes | None = None
) -> None:
    """Delete the parts that were made, cancelled or not, and tell what could not be deleted.

    `own` is the manifest that may have been put; it goes first. With a manifest there even so another copying of the
    bundle has come to its end: then they are its parts, and only what is unfinished goes.
    """

    async def one(what: str, delete: Callable[[], Awaitable[None]]) -> None:
        undo = Undo()
        undo.push(f"{store.location}/{what}", delete)
        for each in await undo.run():
            note(f"could not be removed: {each}")

    async def is_complete() -> bool:
        try:
            async with asyncio.timeout(LOOK_S):
                return await store.stat(manifest_name, read=False) is not None
        except (StoreError, TimeoutError):
            note(f"parts stay in {store.location}: it could not be seen whether another copying was completed there")
            return True

    async def all_of_it() -> None:
        if own is not None:
            await one(manifest_name, partial(store.remove, manifest_name, len(own), whole_checksum(_sha1(own))))
        made = list(names)
        complete = bool(made) and await is_complete()

        async def part(name: str) -> None:
            # No object has that size.
            await one(name, partial(store.remove, name, -1) if complete else partial(store.delete, name))

        await at_once(part, made)

    await uncut(all_of_it())


async def commit(store: Store, manifest_name: str, raw: bytes, seen: list[SeenPart]) -> None:
    """Put the manifest, unless a part is gone again: another copying that failed may have taken it back."""
    there = await names_there(store, [part.name for part in seen])
    for part in seen:
        if part.name not in there:
            raise StoreError(
                "store.lost",
                f"cannot complete the bundle in {store.location}: {part.name} was there and is gone",
                hint="is the same bundle copied there twice at a time? Begin again: what is there stays",
                field="destinations",
            )
    await store.commit(manifest_name, raw, _sha1(raw))


def _sha1(data: bytes) -> bytes:
    return hashlib.sha1(data, usedforsecurity=False).digest()


def _transferred(bundle: Bundle, store: Store, meter: Meter, started: float) -> Transferred:
    return Transferred(
        manifest=f"{store.location}/{bundle.manifest_name}",
        source=bundle.address,
        parts=meter.parts,
        kept=meter.parts_kept,
        bundled_size=bundle.manifest.bundled_size,
        elapsed_s=round(time.monotonic() - started, 3),
    )


async def _fetch(bundle: Bundle, part: SeenPart, path: Path, begin: Begin) -> None:
    """Read the part into a temporary file, prove it, and give it its name. Nothing of a failed one stays."""

    def give_name() -> None:
        file.give_name()
        begin()

    file = _Partial(path)
    hasher = hashlib.sha1(usedforsecurity=False)
    size = 0
    try:
        await _on_disk(file.open)
        while size < part.size:
            piece = await bundle.place.store.read(part.name, size, min(PIECE, part.size - size))
            if not piece:
                break
            size += len(piece)
            await _on_disk(partial(file.append, piece, hasher))
        check_digest(bundle, part, hasher.digest(), size)
        await _on_disk(give_name)
    finally:
        await _on_disk(file.close)


class _Partial:
    """A file that is being written under a temporary name beside its own. Blocking: for threads."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._temporary = path.with_name(f".{path.name}.{_TOKEN}.partial")
        self._file: FileIO | None = None

    def open(self) -> None:
        self._file = self._temporary.open("xb", buffering=0)

    def append(self, piece: bytes, hasher: _Hasher) -> None:
        assert self._file is not None  # noqa: S101 - for the type checker
        hasher.update(piece)
        rest = memoryview(piece)
        while rest:
            rest = rest[self._file.write(rest) :]

    def give_name(self) -> None:
        """Have it on the disk under its name; raises FileExistsError when that is taken."""
        assert self._file is not None  # noqa: S101 - for the type checker
        os.fsync(self._file.fileno())
        self._path.hardlink_to(self._temporary)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._temporary.unlink(missing_ok=True)


async def _on_disk(work: Callable[[], T]) -> T:
    """Run `work` on a thread to its end, cancelled or not."""
    return await uncut(asyncio.to_thread(work))


def _is_right(path: Path, part: SeenPart) -> bool:
    # A pipe would hold the open, and reading it whoever waits.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return False
        return hashlib.file_digest(file, lambda: hashlib.sha1(usedforsecurity=False)).digest() == part.sha1


@asynccontextmanager
async def _alone_in(directory: Path) -> AsyncIterator[None]:
    """Keep a second download out of the directory: both would write the same temporary files."""
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
            pass  # NFS locks no directory; then O_EXCL on the temporary files has to do
        yield
    finally:
        os.close(descriptor)


async def _check_space(directory: Path, size: int) -> None:
    free = (await asyncio.to_thread(shutil.disk_usage, directory)).free
    if free < size:
        raise RefusedError(
            "directory.full",
            f"cannot download to {directory}: {size} bytes are to come, and {free} are free",
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
