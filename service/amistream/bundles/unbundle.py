"""Unpacks the image of a bundle to a file, a block device or the standard output, and proves it.

The signature, the key and the existence of each part are checked before the target is opened. No image is left behind
when it turns out to be bad, or when the pass is cancelled.
"""

from __future__ import annotations

import time
from pathlib import Path

from amistream.bundles.meter import Meter, Note
from amistream.bundles.owner import Owner
from amistream.bundles.place import Bundle
from amistream.bundles.results import Unbundled
from amistream.bundles.unlocked import unlock
from amistream.bundles.way_back import Unpacking
from amistream.errors import RefusedError
from amistream.location import DirectoryLocation
from amistream.ports.target import Target
from amistream.targets.written import written


def refuse_own_file(bundle: Bundle, destination: Path, *more: Path) -> None:
    """Raise `RefusedError` for a file of the bundle, or one of `more`: not even --force replaces those."""
    location = bundle.place.location
    if not isinstance(location, DirectoryLocation) or not destination.exists():
        return
    own = [location.path / name for name in (bundle.manifest_name, *(part.filename for part in bundle.manifest.parts))]
    for path in (*own, *more):
        if path.exists() and path.samefile(destination):
            raise RefusedError(
                "target.bundle",
                f"cannot unbundle to {destination}: that is {path.name} of the bundle itself",
                hint="choose another name",
                field="destination",
            )


async def unbundle(
    bundle: Bundle, owner: Owner, target: Target, meter: Meter, note: Note, *, workers: int | None = None
) -> Unbundled:
    """Unpack the image. Raises `DifferenceError` naming the difference, `RefusedError`, `StoreError`, `JobError`."""
    started = time.monotonic()
    manifest = bundle.manifest
    unlocked = await unlock(bundle, owner, meter, note)
    async with written(target, manifest.size, min(manifest.size, manifest.bundled_size), note):
        unpacking = Unpacking(
            bundle.place.store, manifest, unlocked.key, target, meter, thorough=False, workers=workers
        )
        content = unlocked.check(await unpacking.run(unlocked.parts))
        assert content is not None  # noqa: S101 - for the type checker: without a difference there is content
    return Unbundled(
        manifest=bundle.address,
        destination=target.name,
        image_size=content.image_size,
        data_size=content.data_size,
        archive_sha1=content.archive.sha1.hex(),
        parts=len(manifest.parts),
        bundled_size=manifest.bundled_size,
        signature=unlocked.signature,
        elapsed_s=round(time.monotonic() - started, 3),
    )
