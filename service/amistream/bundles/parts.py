"""The stored parts of a bundle: their presence, their digests and their bytes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from dataclasses import dataclass

from amistream.bundles.manifest import ManifestPart
from amistream.bundles.place import Bundle
from amistream.errors import DifferenceError
from amistream.ports.store import Store, Stored, sha1_of, whole_checksum
from amistream.settings import Settings
from amistream.values import MIB

IN_FLIGHT_MOST = 256 * MIB
"""Maximum bytes of whole parts held at a time, unless a single part is larger. Guess."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredPart:
    """A part as its place reports it."""

    part: ManifestPart
    size: int

    @property
    def name(self) -> str:
        return self.part.filename

    @property
    def sha1(self) -> bytes:
        return bytes.fromhex(self.part.digest)


def differs(stored: Stored, part: ManifestPart) -> bool:
    """Compare the place's checksum with the part; without one of the whole part there is no difference."""
    checksum = stored.checksum
    return checksum is not None and "-" not in checksum and checksum != whole_checksum(bytes.fromhex(part.digest))


async def read_part(bundle: Bundle, part: StoredPart) -> memoryview:
    """Read the whole part and verify it. Raises `DifferenceError` if it differs from the manifest."""
    data = await bundle.place.store.read(part.name, 0, part.size)
    check_digest(bundle, part, await asyncio.to_thread(sha1_of, data), len(data))
    return memoryview(data)


def check_digest(bundle: Bundle, part: StoredPart, sha1: bytes, size: int) -> None:
    """Raise `DifferenceError` unless size and SHA-1 of the data are those of the part."""
    if size != part.size:
        raise different_part_error(bundle, f"{part.name} ended after {size} of {part.size} bytes")
    if sha1 != part.sha1:
        raise different_part_error(
            bundle, f"{part.name} has SHA-1 {sha1.hex()}, and the manifest says {part.part.digest}"
        )


def parts_in_flight(settings: Settings, parts: Sequence[StoredPart]) -> int:
    """Compute how many whole parts may be held at a time."""
    largest = max(part.size for part in parts) or 1
    return max(1, min(settings.upload_concurrency, IN_FLIGHT_MOST // largest))


async def holds_other(store: Store, name: str, raw: bytes) -> bool | None:
    """Compare the manifest of that name with `raw`; None if there is none."""
    stored = await store.stat(name, read=False)
    if stored is None:
        return None
    same = stored.size == len(raw) and stored.checksum in (None, whole_checksum(sha1_of(raw)))
    return not same or (stored.checksum is None and await store.read(name, 0, len(raw)) != raw)


async def existing_names(store: Store, wanted: Sequence[str]) -> set[str]:
    """Find which of these names exist in the store, with one listing."""
    common = os.path.commonprefix(list(wanted))  # noqa: RUF071 - names are strings, not paths
    return set(wanted) & set(await store.names(common))


def different_part_error(bundle: Bundle, what: str) -> DifferenceError:
    return DifferenceError(
        "bundle.differs",
        f"cannot use the bundle {bundle.address}: {what}",
        hint=f"see all differences: amistream verify {bundle.address} (--deep also reads parts without a checksum)",
        field="manifest",
    )
