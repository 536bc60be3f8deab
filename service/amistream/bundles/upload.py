"""Copies a bundle unchanged into a bucket."""

from __future__ import annotations

import time

from amistream.bundles.copying import (
    Begin,
    commit,
    copy_all_parts,
    find_existing_parts,
    refuse_other_manifest,
    require_same,
    transferred,
)
from amistream.bundles.meter import Meter, Note
from amistream.bundles.parts import (
    StoredPart,
    check_parts,
    parts_in_flight,
    read_part,
)
from amistream.bundles.place import Bundle, Place
from amistream.bundles.results import Transferred
from amistream.settings import Settings

_MULTIPART_CHECKSUM = "-1"
"""For `tidy`, which looks only for names whose checksum contains "-".

A killed process can leave unfinished multipart uploads: S3 charges for them, and no listing shows them.
"""


async def upload(bundle: Bundle, target: Place, settings: Settings, meter: Meter, note: Note) -> Transferred:
    """Copy the bundle to a place that was checked. Raises `AmistreamError`."""
    started = time.monotonic()
    store = target.store
    parts = await check_parts(bundle)
    meter.begin(len(parts), bundle.manifest.bundled_size)
    await refuse_other_manifest(bundle, store)
    there = await find_existing_parts(store, parts)
    large = [part for part in parts if part.size > settings.multipart_threshold and part.name not in there]
    await store.tidy({part.name: _MULTIPART_CHECKSUM for part in large})

    async def send(part: StoredPart, begin: Begin) -> None:
        stored = there.get(part.name)
        if stored is not None:
            await require_same(bundle, part, store, stored)
            meter.done(part.size, kept=True)
            return
        data = await read_part(bundle, part)
        begin()
        await store.put(part.name, data, part.sha1, lambda _: None)
        meter.done(part.size)

    await copy_all_parts(store, bundle.manifest_name, parts, send, limit=parts_in_flight(settings, parts), note=note)
    await commit(store, bundle.manifest_name, bundle.manifest.raw, parts)
    return transferred(bundle, store, meter, started)
