"""Copies a bundle as it is, from where it lies to a directory or into a bucket: `download` and `upload`.

Each part is proved by its SHA-1 on the way. What is there already and right stays, so that a copying that was cut
short goes on when it is begun again; what is there and is another object is refused before anything is sent. The
manifest goes last. Nothing half-made stays: a part has its name only once it is whole. Whole parts stay after a
failure or cancel of the transport, and go again when the bundle itself turns out to be bad.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import TypeAlias

from amistream.bundles.meter import Meter, Note
from amistream.bundles.parts import (
    SeenPart,
    differs,
    names_there,
    read_part,
)
from amistream.bundles.place import Bundle
from amistream.bundles.results import Transferred
from amistream.errors import BundleExistsError, DifferenceError, LostError, StoreError, TakenError
from amistream.flow.cancel import finish_despite_cancel
from amistream.flow.gather import gather_limited
from amistream.flow.undo import Undo
from amistream.ports.store import Store, Stored, sha1_of, whole_checksum

LOOK_S = 30
"""Seconds for a look at what is there before something is taken back."""


Begin: TypeAlias = Callable[[], None]


async def find_there(store: Store, seen: list[SeenPart]) -> dict[str, Stored]:
    """Which parts are there already. Raises `StoreError` for one that the store shows to be another object."""
    wanted = {part.name: part for part in seen}
    old = sorted(await names_there(store, list(wanted)))

    async def look(name: str) -> Stored | None:
        stored = await store.stat(name, read=False)
        if stored is not None and (stored.size != wanted[name].size or differs(stored, wanted[name].part)):
            raise taken_error(store, name)
        return stored

    found = await gather_limited(look, old)
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
        raise taken_error(store, part.name)


async def refuse_other_manifest(bundle: Bundle, store: Store) -> None:
    """Refuse a place that has another bundle of this name."""
    name, raw = bundle.manifest_name, bundle.manifest.raw
    stored = await store.stat(name, read=False)
    if stored is None or (stored.size == len(raw) and await store.read(name, 0, len(raw)) == raw):
        return
    raise BundleExistsError(
        "destination.exists",
        f"cannot copy a bundle to {store.location}: another one is there, {name}",
        hint="choose another place; overwriting would break the AMI registered on it",
        field="destinations",
    )


def taken_error(store: Store, name: str) -> StoreError:
    """The error for a name under which something else is there."""
    return TakenError(
        "store.exists",
        f"cannot store {store.location}/{name}: it exists already, with other content",
        hint="choose another place, or remove what is there: nothing is ever overwritten",
        field="destinations",
    )


async def copy_all_parts(
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
        await gather_limited(one, seen, limit)
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
            await one(manifest_name, partial(store.remove, manifest_name, len(own), whole_checksum(sha1_of(own))))
        made = list(names)
        complete = bool(made) and await is_complete()

        async def part(name: str) -> None:
            # No object has that size.
            await one(name, partial(store.remove, name, -1) if complete else partial(store.delete, name))

        await gather_limited(part, made)

    await finish_despite_cancel(all_of_it())


async def commit(store: Store, manifest_name: str, raw: bytes, seen: list[SeenPart]) -> None:
    """Put the manifest, unless a part is gone again: another copying that failed may have taken it back."""
    there = await names_there(store, [part.name for part in seen])
    for part in seen:
        if part.name not in there:
            raise LostError(
                "store.lost",
                f"cannot complete the bundle in {store.location}: {part.name} was there and is gone",
                hint="is the same bundle copied there twice at a time? Begin again: what is there stays",
                field="destinations",
            )
    await store.commit(manifest_name, raw, sha1_of(raw))


def transferred(bundle: Bundle, store: Store, meter: Meter, started: float) -> Transferred:
    return Transferred(
        manifest=f"{store.location}/{bundle.manifest_name}",
        source=bundle.address,
        parts=meter.parts,
        kept=meter.parts_kept,
        bundled_size=bundle.manifest.bundled_size,
        elapsed_s=round(time.monotonic() - started, 3),
    )
