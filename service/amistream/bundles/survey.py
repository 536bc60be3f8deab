"""Stats every part of a bundle, several at a time, and compares the results with the manifest."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from amistream.bundles.manifest import Manifest, ManifestPart
from amistream.bundles.meter import Meter
from amistream.bundles.parts import StoredPart, different_part_error, differs
from amistream.bundles.place import BucketPlace, Bundle
from amistream.flow.gather import gather_limited
from amistream.ports.store import Stored
from amistream.reports import Difference, Digests
from amistream.values import LARGEST_PART

READERS = 2
"""Files of a directory read at a time: hashing keeps that many cores busy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """`parts`: the existing ones, in order; `complete`: all parts exist and their sizes have the right sum.

    `readable`: the parts of a size that the manifest permits. Together they have at most twice the bundle's size.
    """

    parts: tuple[StoredPart, ...]
    readable: tuple[StoredPart, ...]
    complete: bool
    digests: Digests
    differences: tuple[Difference, ...]


async def survey(bundle: Bundle, meter: Meter, *, read: bool) -> Survey:
    """Stat every part. With `read`, a directory's files are read for their SHA-1; a bucket reports it itself."""
    store, manifest = bundle.place.store, bundle.manifest

    async def look(part: ManifestPart) -> Stored | None:
        return await store.stat(part.filename, read=False)

    found = list(zip(manifest.parts, await gather_limited(look, manifest.parts), strict=True))
    there = {part: stored for part, stored in found if stored is not None}
    missing = [part.filename for part, stored in found if stored is None]
    sizes = list(_sizes(manifest, {part: stored.size for part, stored in there.items()}, whole=not missing))
    parts = tuple(StoredPart(part=part, size=stored.size) for part, stored in there.items())
    readable = tuple(_readable(manifest, parts, sizes))

    async def hashed(each: StoredPart) -> Stored | None:
        stored = there[each.part] if isinstance(bundle.place, BucketPlace) else await store.stat(each.name)
        meter.parts_done += 1
        meter.bytes_done += each.size
        return stored

    if read:
        stored_ones = await gather_limited(hashed, readable, READERS)
        there |= {each.part: stored for each, stored in zip(readable, stored_ones, strict=True) if stored is not None}
    composite = sum("-" in (stored.checksum or "") for stored in there.values())
    unkept = sum(stored.checksum is None for stored in there.values())
    return Survey(
        parts=parts,
        readable=readable,
        complete=not missing and not sizes,
        digests=Digests(compared=len(there) - composite - unkept, composite=composite, unkept=unkept),
        differences=(
            *(Difference(what="part.missing", part=name, message=f"{name}: it is missing") for name in missing),
            *sizes,
            *(
                Difference(what="part.size", part=part.filename, found="0", message=f"{part.filename}: it is empty")
                for part, stored in there.items()
                if not stored.size
            ),
            *(_checksum(part, stored) for part, stored in there.items() if differs(stored, part)),
        ),
    )


def _readable(manifest: Manifest, parts: Sequence[StoredPart], sizes: Sequence[Difference]) -> Iterator[StoredPart]:
    """Leave out parts that are much too large: anybody who may write to the place may put a file of any size there."""
    condemned = {each.part for each in sizes if each.part and int(each.found) > 2 * int(each.expected)}
    left = 2 * manifest.bundled_size
    for part in parts:
        if part.name not in condemned and part.size <= min(left, manifest.bundled_size, LARGEST_PART):
            left -= part.size
            yield part


async def check_parts(bundle: Bundle) -> list[StoredPart]:
    """Stat every part without reading. Raises `DifferenceError` for missing parts and other objects."""
    surveyed = await survey(bundle, Meter(), read=False)
    if surveyed.differences:
        more = f" ({len(surveyed.differences) - 1} more)" if surveyed.differences[1:] else ""
        raise different_part_error(bundle, surveyed.differences[0].message + more)
    return list(surveyed.parts)


def _sizes(manifest: Manifest, sizes: dict[ManifestPart, int], *, whole: bool) -> Iterator[Difference]:
    """Check the sum of the sizes, all that the manifest has; a part unlike its neighbours is reported as the cause.

    Without the `whole` bundle the sum may only be too large.
    """
    total = sum(sizes.values())
    if total == manifest.bundled_size or (total < manifest.bundled_size and not whole):
        return
    yield Difference(
        what="bundle.size",
        expected=str(manifest.bundled_size),
        found=str(total),
        message=f"the parts have {total} bytes together, the manifest says {manifest.bundled_size}",
    )
    *full, last = sizes
    usual = Counter(sizes[part] for part in full).most_common(1)[0][0] if full else 0
    expected = {part: usual for part in full if sizes[part] != usual}
    if not expected:
        left = manifest.bundled_size - usual * len(full)
        expected = {last: left} if not full or 0 < left <= usual else {}
    for part, size in expected.items():
        yield Difference(
            what="part.size",
            part=part.filename,
            expected=str(size),
            found=str(sizes[part]),
            message=f"{part.filename}: it has {sizes[part]} bytes, where {size} are to be expected",
        )


def _checksum(part: ManifestPart, stored: Stored) -> Difference:
    found = _hex(stored.checksum or "")
    return Difference(
        what="part.digest",
        part=part.filename,
        expected=part.digest,
        found=found,
        message=f"{part.filename}: its SHA-1 is {found}, the manifest says {part.digest}",
    )


def _hex(checksum: str) -> str:
    """Convert the checksum to the form of the manifest."""
    try:
        return base64.b64decode(checksum, validate=True).hex()
    except ValueError:
        return checksum
