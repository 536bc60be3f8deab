"""Removes what a migration copied and did not finish, and nothing that anyone else made.

Parts are the job's own if the journal has entered them before they were copied, and are deleted only if their content
is proved by a checksum. If another manifest has come to be there, another copy of the bundle was completed: the parts
are that one's, too, and stay. Before each deletion the claim of a named job is looked at: once a later attempt has it,
the parts are that one's.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from amistream.bundles.parts import StoredPart
from amistream.flow.gather import try_each
from amistream.flow.undo import Progress
from amistream.jobs.manifest_removal import OwnManifest, remove_manifest
from amistream.jobs.migration_context import Copy
from amistream.jobs.migration_records import MigrationRecord
from amistream.ports.store import Store, read_sha1, whole_checksum

NO_SIZE = -1
"""No object has this size: only unfinished uploads under the name are removed."""
UNKNOWN_CHUNKS = "-1"
"""The checksum of an upload in chunks, for `Store.tidy`, which looks for uploads of such names only."""


async def remove_migration(
    record: MigrationRecord, copy: Copy, manifest: OwnManifest, progress: Progress, note: Callable[[str], None]
) -> None:
    """Remove AMI, manifest and parts. Raises the first error of all, and `FencedError` once another host has the job.

    `record` is kept up to date.
    """
    store, own = copy.target.store, [part for part in copy.parts if part.name in record.parts]
    await manifest.check()
    await store.tidy(unfinished(record, own))
    try:
        await remove_manifest(manifest)
    finally:
        record.know_image(manifest.image)
    progress()
    is_anothers = bool(own) and await store.stat(manifest.name, read=False) is not None

    async def remove(part: StoredPart) -> None:
        compared = partial(progress, compared=True)
        checksums = () if is_anothers else await _checksums(store, part, compared)
        await manifest.check()
        if is_anothers:
            await store.remove(part.name, NO_SIZE)
        else:
            await store.remove(part.name, part.size, *checksums, progress=compared)
        progress()

    await try_each(remove, own)
    if is_anothers:
        note(f"the parts in {store.location} stay: another copy of the bundle was completed there, {manifest.name}")


def unfinished(record: MigrationRecord, parts: list[StoredPart]) -> dict[str, str]:
    """The names of these parts under which there may be unfinished uploads, for `Store.tidy`."""
    threshold = record.migrating.multipart_threshold
    return {part.name: UNKNOWN_CHUNKS for part in parts if part.size > threshold}


async def _checksums(store: Store, part: StoredPart, progress: Callable[[], object]) -> tuple[str, ...]:
    """The checksums under which the store may show the part: that of an upload in chunks if its content proves it."""
    whole = whole_checksum(part.sha1)
    found = await store.stat(part.name, read=False)
    if found is None or found.size != part.size or found.checksum in (None, whole):
        return (whole,)
    is_same = await read_sha1(store, part.name, part.size, progress) == part.sha1
    return (whole, str(found.checksum)) if is_same else (whole,)
