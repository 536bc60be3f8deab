"""Compares a bundle with its manifest: shallow, by looking up each part, or deep, by unpacking all of it.

All differences are listed, not only the first. Nothing is written.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from itertools import chain

from amistream.aws.session import Aws
from amistream.bundles.acls import check_acls
from amistream.bundles.manifest import Manifest
from amistream.bundles.meter import Meter
from amistream.bundles.owner import Owner
from amistream.bundles.place import Bundle
from amistream.bundles.survey import survey
from amistream.bundles.way_back import Unpacked, Unpacking, compare
from amistream.reports import Content, Difference, Digests, Report, Signature
from amistream.settings import Settings
from amistream.values import as_utf8

MOST_PADDING = 20 * 512 + 1024
"""The most zeros that GNU tar writes at an archive's end; some readers fail on many more."""


async def verify(bundle: Bundle, owner: Owner, settings: Settings, aws: Aws, *, meter: Meter, deep: bool) -> Report:
    """Check everything. Raises `StoreError`, and `RefusedError` when a deep check lacks the bundle's key."""
    started = time.monotonic()
    manifest = bundle.manifest
    key = owner.open_key(manifest) if deep else None
    meter.begin(len(manifest.parts), manifest.bundled_size)
    signature = owner.check_signature(manifest)
    surveyed = await survey(bundle, meter, read=key is None)
    access, private = await check_acls(bundle, [part.name for part in surveyed.parts], settings, aws)
    unpacked = None
    if key is not None:
        unpacking = Unpacking(bundle.place.store, manifest, key, None, meter, thorough=True, workers=settings.workers)
        unpacked = await unpacking.run(surveyed.readable, complete=surveyed.complete)
    content = unpacked.content if unpacked else None
    differences = chain(
        signature_difference(signature),
        surveyed.differences,
        private,
        unpacked.differences if unpacked else (),
        compare(manifest, content) if content else (),
    )
    digests = Digests(compared=len(surveyed.readable), composite=0, unkept=0) if deep else surveyed.digests
    return Report(
        manifest=bundle.address,
        deep=deep,
        bundler=manifest.bundler,
        kind=manifest.kind,
        architecture=manifest.architecture,
        image_name=manifest.name,
        image_size=manifest.size,
        bundled_size=manifest.bundled_size,
        parts=len(manifest.parts),
        digests=digests,
        signature=signature,
        access=access,
        content=Content(
            name=as_utf8(content.name),
            size=content.image_size,
            data_size=content.data_size,
            sparse=content.sparse,
            archive_sha1=content.archive.sha1.hex(),
        )
        if content
        else None,
        # Both a stored checksum and reading may find the same.
        differences=tuple({(each.what, each.part): each for each in differences}.values()),
        notes=tuple(_notes(manifest, signature, digests, unpacked, complete=surveyed.complete)),
        elapsed_s=round(time.monotonic() - started, 3),
    )


def signature_difference(signature: Signature) -> Sequence[Difference]:
    if signature is not Signature.WRONG:
        return ()
    return (
        Difference(
            what="signature.wrong",
            expected=Signature.RIGHT,
            found=Signature.WRONG,
            message="the manifest's signature is not the user's: the manifest was changed, or signed with another key",
        ),
    )


def _notes(
    manifest: Manifest, signature: Signature, digests: Digests, unpacked: Unpacked | None, *, complete: bool
) -> Iterator[str]:
    """Yield remarks that are worth knowing and no differences."""
    if signature is Signature.ABSENT:
        yield "the manifest has no signature"
    if digests.composite:
        yield (
            f"{digests.composite} parts were sent in chunks: S3 stores no checksum of the whole part, so only --deep "
            "can compare them"
        )
    if digests.unkept:
        yield f"{digests.unkept} parts have no stored checksum: only --deep can compare them"
    if unpacked is None:
        return
    if not complete:
        yield "the image was not checked, because parts are missing or of another size"
    content = unpacked.content
    if content is None:
        return
    if content.name.removeprefix("./") != manifest.name:
        yield f"the archive's member is called {content.name!r}, the manifest's image {manifest.name!r}"
    if content.padding > MOST_PADDING:
        yield f"the archive ends in {content.padding} bytes of zeros: some readers stop earlier and fail"
