"""Copies a bundle for use in another region: the same parts, and a manifest for that region's EC2.

The AES key and IV are unwrapped with the user's private key and wrapped for the other EC2's certificate; kernel and
RAM disk, whose ids are valid in one region only, are replaced or dropped; the manifest is written and signed again. S3
copies the parts itself where it can and proves them, else they go through this process. If anything fails before the
manifest is put, all copies are deleted.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cryptography import x509

from amistream.aws.session import Aws
from amistream.bundles.copying import Begin, copy_bundle
from amistream.bundles.manifest import Manifest, check_signature, parse_manifest
from amistream.bundles.meter import Meter, Note
from amistream.bundles.owner import open_key
from amistream.bundles.parts import StoredPart, different_part_error, parts_in_flight, read_part
from amistream.bundles.place import BucketPlace, Bundle
from amistream.bundles.register import Intent, carry_out, check_registration, ec2_of
from amistream.bundles.results import Migrated
from amistream.errors import RefusedError, StoreError, TakenError
from amistream.keys import UserIdentity, wrap
from amistream.location import S3Location
from amistream.ports.registry import Registration
from amistream.ports.store import ObjectStore, whole_checksum
from amistream.reports import Signature
from amistream.settings import Settings
from amistream.stages.manifest import ImageFacts, WrappedKeys, write_manifest
from amistream.values import ArchiveResult, GzipResult, Measured, PartDigest, SplitResult


@dataclass(frozen=True, slots=True, kw_only=True)
class MigrationRequest:
    """The options of a migration. `kernel` and `ramdisk` None: the manifest's, if they are valid there; '': none."""

    region: str
    certificate: Path | None = None
    private_key: Path | None = None
    ec2_certificate: Path | None = None
    kernel: str | None = None
    ramdisk: str | None = None
    source_endpoint_url: str = ""
    source_profile: str = ""
    """Credentials of the source, where they are others: of another partition."""
    registration: Registration | None = None
    """Options to register the copy; None: do not register it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MigrationOptions:
    """The keys and values of the new manifest. `server_side`: one service has source and target, and may copy parts."""

    identity: UserIdentity
    ec2_certificate: x509.Certificate
    kernel: str
    ramdisk: str
    registration: Registration | None = None
    server_side: bool = False


def kernel_for_region(what: str, old: str, new: str | None, *, stays: bool) -> str:
    """Choose the kernel or RAM disk: `new`, or `old` where its id `stays` valid. Raises `RefusedError` when unsure."""
    if new is not None or not old:
        return new or ""
    if stays:
        return old
    raise RefusedError(
        f"{what}.region",
        f"cannot migrate the {what} {old} of the manifest: its id is known in its own region only",
        hint=f"name the same {what} of the other region with --{what} ID, or leave it out with --no-{what}",
        field=what,
    )


def new_manifest(manifest: Manifest, options: MigrationOptions) -> bytes:
    """Write the manifest for the other region; parts and digests stay. Blocks for milliseconds."""
    key = open_key(options.identity, manifest)
    wrapped = WrappedKeys(
        ec2_key=wrap(options.ec2_certificate, key.key),
        ec2_iv=wrap(options.ec2_certificate, key.iv),
        user_key=manifest.user_key,
        user_iv=manifest.user_iv,
    )
    facts = ImageFacts(
        prefix=manifest.name,
        user=manifest.user,
        architecture=manifest.architecture,
        kind=manifest.kind,
        kernel_name=manifest.kernel_name,
        kernel=options.kernel,
        ramdisk=options.ramdisk,
        product_codes=manifest.product_codes,
        ancestors=manifest.ancestors,
        block_device_mappings=manifest.block_device_mappings,
        part_names=[part.filename for part in manifest.parts],
    )
    return write_manifest(facts, _measured(manifest), wrapped, options.identity.sign)


async def migrate(
    bundle: Bundle,
    target: BucketPlace,
    options: MigrationOptions,
    settings: Settings,
    aws: Aws,
    *,
    meter: Meter,
    note: Note,
) -> Migrated:
    """Copy the bundle to a place that was checked, with a manifest for its region. Raises `AmistreamError`."""
    _check_signature(bundle, options, note)
    raw = await asyncio.to_thread(new_manifest, bundle.manifest, options)
    new = Bundle(place=target, manifest_name=bundle.manifest_name, manifest=parse_manifest(raw, bundle.manifest_name))
    ec2 = await ec2_of(target.region, settings, aws)
    intent: Intent | None = None

    async def prepare(_: list[StoredPart]) -> None:
        nonlocal intent
        if options.registration is not None:
            intent = await check_registration(new, options.registration, settings, ec2, note)

    by_s3 = _CopiesByS3(bundle, target.store, note, switched_on=options.server_side)

    async def send(part: StoredPart, begin: Begin) -> None:
        if not await by_s3.copied(part, begin):
            data = await read_part(bundle, part)
            begin()
            await target.store.put(part.name, data, part.sha1, lambda _: None)

    limit = partial(parts_in_flight, settings)
    done = await copy_bundle(
        bundle, target.store, meter, note, prepare=prepare, send=send, limit=limit, new_manifest=raw
    )
    image = await carry_out(new, intent, settings, ec2, note) if intent else None
    return Migrated(
        **dict(done),
        region=target.region,
        copied=by_s3.count,
        kernel=new.manifest.kernel or None,
        ramdisk=new.manifest.ramdisk or None,
        image=image,
    )


class _CopiesByS3:
    """Has S3 copy parts by itself, as long as it does."""

    def __init__(self, old: Bundle, store: ObjectStore, note: Note, *, switched_on: bool) -> None:
        self._old = old
        self._store = store
        self._note = note
        source = old.place.location
        # None also after S3 has refused to copy once: then it refuses the rest too.
        self._source = source if isinstance(source, S3Location) and switched_on else None
        self.count = 0

    async def copied(self, part: StoredPart, begin: Begin) -> bool:
        """Have S3 copy the part; returns True if S3 copied and proved it. Raises `DifferenceError` for a bad part."""
        source, name = self._source, part.name
        if source is None:
            return False
        begin()
        try:
            checksum = await self._store.copy(name, source, name, part.sha1)
        except TakenError:
            raise
        except StoreError as error:
            if self._source is not None:
                self._note(f"parts go through this machine, because S3 does not copy them: {error.message}")
            self._source = None
            return False
        if checksum == whole_checksum(part.sha1):
            self.count += 1
            return True
        if checksum is not None and "-" not in checksum:
            raise different_part_error(self._old, f"{part.name} has another checksum than in the manifest")
        # This store does not hash copies, or keeps the checksum of the original's chunks.
        self._source = None
        await self._store.delete(name)
        return False


def _check_signature(bundle: Bundle, options: MigrationOptions, note: Note) -> None:
    """Refuse a changed manifest: it must not get a valid signature."""
    state = check_signature(bundle.manifest, options.identity.certificate)
    if state is Signature.WRONG:
        raise different_part_error(
            bundle, "its signature is not by the given certificate, or the manifest was changed since"
        )
    if state is Signature.ABSENT:
        note(f"{bundle.address} has no signature; the new manifest is signed with your key")


def _measured(manifest: Manifest) -> Measured:
    """Convert the old manifest to the stages' results; values it does not have are not written either."""
    parts = tuple(PartDigest(index=part.index, size=0, sha1=bytes.fromhex(part.digest)) for part in manifest.parts)
    return Measured(
        image_size=manifest.size,
        archive=ArchiveResult(size=0, sha1=bytes.fromhex(manifest.digest)),
        gzip=GzipResult(crc32=0, size_in=0, size_out=0),
        split=SplitResult(parts=parts, bundled_size=manifest.bundled_size),
    )
