"""Copies a bundle to a directory or into a bucket: the common part of `download`, `upload` and `migrate`.

Each part is verified by its SHA-1. Valid parts that already exist stay, so that a repeated command resumes an
interrupted one; other objects with the same names are refused before anything is sent. The manifest goes last. A part
has its name only once it is whole. Whole parts stay after a failure or cancel of the transport, and are removed if the
bundle itself is invalid.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Container, Iterable, Sequence
from typing import TypeAlias

from amistream.bundles.meter import Meter, Note
from amistream.bundles.parts import StoredPart, differs, existing_names, holds_other
from amistream.bundles.place import Bundle
from amistream.bundles.survey import check_parts
from amistream.errors import AmistreamError, BundleExistsError, DifferenceError, LostError, StoreError, TakenError
from amistream.flow.gather import gather_limited, try_each
from amistream.flow.undo import Progress, undo_despite_cancel
from amistream.ports.store import Store, Stored, read_sha1, sha1_of, whole_checksum
from amistream.reports import Transferred

STALL_S = 120
"""Seconds without a part removed after which the rest is left. Guess."""

Begin: TypeAlias = Callable[[], None]


async def find_existing_parts(
    store: Store, parts: Sequence[StoredPart], *, own: Container[str] = ()
) -> dict[str, Stored]:
    """Find the parts that already exist. Raises `StoreError` if one is another object.

    The checksums of `own` parts are not compared: they may be those of an upload in chunks.
    """
    wanted = {part.name: part for part in parts}
    old = sorted(await existing_names(store, list(wanted)))

    async def check(name: str) -> Stored | None:
        stored, part = await store.stat(name, read=False), wanted[name]
        if stored is not None and (stored.size != part.size or (name not in own and differs(stored, part.part))):
            raise taken_error(store, name)
        return stored

    found = await gather_limited(check, old)
    return {name: stored for name, stored in zip(old, found, strict=True) if stored is not None}


async def require_same(store: Store, part: StoredPart, stored: Stored) -> None:
    """Raise `StoreError` unless the object found by `find_existing_parts` is the part.

    It is read unless the store has a checksum of the whole: that of an upload in chunks depends on their size.
    """
    if stored.checksum == whole_checksum(part.sha1):
        return
    if await read_sha1(store, part.name, part.size) != part.sha1:
        raise taken_error(store, part.name)


async def refuse_other_manifest(store: Store, name: str, raw: bytes) -> None:
    """Refuse a place that has another bundle of this name."""
    if await holds_other(store, name, raw):
        raise BundleExistsError(
            "destination.exists",
            f"cannot copy a bundle to {store.location}: another bundle exists there, {name}",
            hint="choose another place; overwriting would break the AMI registered on it",
            field="destinations",
        )


def taken_error(store: Store, name: str) -> StoreError:
    """Make the error for a name that another object has."""
    return TakenError(
        "store.exists",
        f"cannot store {store.location}/{name}: it exists already, with other content",
        hint="choose another place, or remove the object there: nothing is ever overwritten",
        field="destinations",
    )


async def copy_bundle(
    bundle: Bundle,
    store: Store,
    meter: Meter,
    note: Note,
    *,
    prepare: Callable[[list[StoredPart]], Awaitable[None]],
    send: Callable[[StoredPart, Begin], Awaitable[None]],
    limit: Callable[[list[StoredPart]], int],
    new_manifest: bytes | None = None,
) -> Transferred:
    """Copy the bundle and clean up after a failure. Raises `AmistreamError`.

    `prepare` gets the missing parts. `send` copies one of them, `limit` of all at a time, and calls `begin` once it may
    have created an object. With a `new_manifest` nothing of a failed copy stays.
    """
    started = time.monotonic()
    parts = await check_parts(bundle)
    meter.begin(len(parts), bundle.manifest.bundled_size)
    name, raw = bundle.manifest_name, new_manifest or bundle.manifest.raw
    await refuse_other_manifest(store, name, raw)
    there = await find_existing_parts(store, parts)
    await prepare([part for part in parts if part.name not in there])
    begun: dict[str, None] = {}
    whole: set[str] = set()

    async def one(part: StoredPart) -> None:
        stored = there.get(part.name)
        if stored is None:
            await send(part, lambda: begun.update({part.name: None}))
        else:
            await require_same(store, part, stored)
        whole.add(part.name)
        meter.done(part.size, kept=stored is not None)

    try:
        await gather_limited(one, parts, limit(parts))
        await check_present(store, parts)
        await store.commit(name, raw, sha1_of(raw))
    except BaseException as error:
        all_of_them = new_manifest is not None or isinstance(error, DifferenceError)
        made = [each for each in begun if all_of_them or each not in whole]
        if whole and not all_of_them:
            note(f"{len(whole)} of {len(parts)} parts are in {store.location}; the same command continues from them")
        await _remove_copied_parts(store, name, made, note, own_manifest=new_manifest)
        raise
    return Transferred(
        manifest=f"{store.location}/{name}",
        source=bundle.address,
        parts=meter.parts,
        kept=meter.parts_kept,
        kept_parts=tuple(there),
        bundled_size=bundle.manifest.bundled_size,
        elapsed_s=round(time.monotonic() - started, 3),
    )


async def _remove_copied_parts(
    store: Store, manifest_name: str, names: Iterable[str], note: Note, *, own_manifest: bytes | None = None
) -> None:
    """Delete the parts that were made, cancelled or not, and note what could not be deleted.

    `own_manifest`: the manifest that may have been stored; deleted first. If a manifest is there even so, another copy
    of the bundle was completed: the parts belong to it, and only unfinished uploads are removed.
    """

    async def all_of_it(progress: Progress) -> None:
        if own_manifest is not None:
            await store.remove(manifest_name, len(own_manifest), whole_checksum(sha1_of(own_manifest)))
        made = list(names)
        complete = bool(made) and await store.stat(manifest_name, read=False) is not None

        async def part(name: str) -> None:
            # No object has that size.
            await (store.remove(name, -1) if complete else store.delete(name))
            progress()

        await try_each(part, made)

    def report(left: AmistreamError | None) -> None:
        if left is not None:
            note(f"some parts may be left in {store.location}: {left.message}")
        for name in sorted(store.unanswered.late):
            note(f"{store.location}/{name} may still appear: the endpoint did not answer the request to store it")

    await undo_despite_cancel(all_of_it, report, stall_s=STALL_S)


async def check_present(store: Store, parts: Sequence[StoredPart]) -> None:
    """Raise `StoreError` if a part has disappeared: another copy that failed may have removed it."""
    there = await existing_names(store, [part.name for part in parts])
    for part in parts:
        if part.name not in there:
            raise lost_error(store, part.name)


def lost_error(store: Store, name: str) -> LostError:
    """Make the error for a part that was there."""
    return LostError(
        "store.lost",
        f"cannot complete the bundle in {store.location}: {name} has disappeared",
        hint="does another command copy the same bundle there? Run this one again: existing parts stay",
        field="destinations",
    )
