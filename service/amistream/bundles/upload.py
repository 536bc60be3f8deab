"""Copies a bundle unchanged into a bucket."""

from __future__ import annotations

from functools import partial

from amistream.bundles.copying import Begin, copy_bundle
from amistream.bundles.meter import Meter, Note
from amistream.bundles.parts import StoredPart, parts_in_flight, read_part
from amistream.bundles.place import Bundle, Place
from amistream.reports import Transferred
from amistream.settings import Settings

_MULTIPART_CHECKSUM = "-1"
"""For `tidy`, which looks only for names whose checksum contains "-".

A killed process can leave unfinished multipart uploads: S3 charges for them, and no listing shows them.
"""


async def upload(bundle: Bundle, target: Place, settings: Settings, meter: Meter, note: Note) -> Transferred:
    """Copy the bundle to a place that was checked. Raises `AmistreamError`."""
    store = target.store

    async def prepare(missing: list[StoredPart]) -> None:
        large = [part.name for part in missing if part.size > settings.multipart_threshold]
        await store.tidy(dict.fromkeys(large, _MULTIPART_CHECKSUM))

    async def send(part: StoredPart, begin: Begin) -> None:
        data = await read_part(bundle, part)
        begin()
        await store.put(part.name, data, part.sha1, lambda _: None)

    limit = partial(parts_in_flight, settings)
    return await copy_bundle(bundle, store, meter, note, prepare=prepare, send=send, limit=limit)
