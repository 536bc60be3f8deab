"""A bundle that can be unpacked: its key opened, its signature checked, and every part of it found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from amistream.bundles.meter import Meter, Note
from amistream.bundles.owner import Owner
from amistream.bundles.parts import StoredPart
from amistream.bundles.place import Bundle
from amistream.bundles.results import difference_error
from amistream.bundles.survey import survey
from amistream.bundles.verify import signature_difference
from amistream.bundles.way_back import Unpacked, compare
from amistream.keys import BundleKey
from amistream.reports import Difference, Signature
from amistream.stages.back.unarchive import Unarchived


@dataclass(frozen=True, slots=True, kw_only=True)
class Unlocked:
    """The bundle with all that unpacking needs."""

    bundle: Bundle
    key: BundleKey
    signature: Signature
    parts: Sequence[StoredPart]

    def check(self, unpacked: Unpacked) -> Unarchived | None:
        """The archive that was unpacked; None if the pass was stopped. Raises `DifferenceError`."""
        _refuse(self.bundle, *unpacked.differences)
        if unpacked.content is not None:
            _refuse(self.bundle, *compare(self.bundle.manifest, unpacked.content))
        return unpacked.content


async def unlock(bundle: Bundle, owner: Owner, meter: Meter, note: Note) -> Unlocked:
    """Look at everything but the parts' bytes. Raises `RefusedError`, `DifferenceError` and `StoreError`."""
    manifest = bundle.manifest
    key = owner.open_key(manifest)
    signature = owner.check_signature(manifest)
    if signature is Signature.ABSENT:
        note("the manifest has no signature: a change would not be noticed")
    _refuse(bundle, *signature_difference(signature))
    meter.begin(len(manifest.parts), manifest.bundled_size)
    surveyed = await survey(bundle, meter, read=False)
    _refuse(bundle, *surveyed.differences)
    return Unlocked(bundle=bundle, key=key, signature=signature, parts=surveyed.parts)


def _refuse(bundle: Bundle, *differences: Difference) -> None:
    if differences:
        raise difference_error(bundle.address, differences)
