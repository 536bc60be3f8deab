"""Copies a bundle for use in another region: the same parts, and a manifest for that region's EC2.

The AES key and IV are unwrapped with the user's private key and wrapped for the other EC2's certificate; kernel and
RAM disk, whose ids are valid in one region only, are replaced or dropped; the manifest is written and signed again. S3
copies the parts itself where it can and proves them, else they go through this process. If anything fails before the
manifest is put, all copies are deleted.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cryptography import x509

from amistream.aws.regions import find_ec2_certificate
from amistream.aws.session import Aws
from amistream.bundles.copying import copy_bundle
from amistream.bundles.manifest import Manifest, check_signature, parse_manifest
from amistream.bundles.meter import Meter, Note
from amistream.bundles.owner import find_owner, open_key
from amistream.bundles.part_sender import PartSender
from amistream.bundles.parts import StoredPart, different_part_error, parts_in_flight
from amistream.bundles.place import BucketPlace, Bundle, Place, open_place
from amistream.bundles.register import Intent, carry_out, check_registration, ec2_of
from amistream.errors import RefusedError
from amistream.keys import UserIdentity, wrap
from amistream.location import Location
from amistream.ports.registry import Registration
from amistream.reports import Migrated, Signature
from amistream.roots import Roots
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


def check_migration_signature(bundle: Bundle, identity: UserIdentity, note: Note) -> None:
    """Refuse a changed manifest: it must not get a valid signature."""
    state = check_signature(bundle.manifest, identity.certificate)
    if state is Signature.WRONG:
        raise different_part_error(
            bundle, "its signature is not by the given certificate, or the manifest was changed since"
        )
    if state is Signature.ABSENT:
        note(f"{bundle.address} has no signature; the new manifest is signed with your key")


@dataclass(frozen=True, slots=True, kw_only=True)
class MigrationKeys:
    """The keys of a migration: those of the bundle's owner, and the certificate of the other region's EC2."""

    identity: UserIdentity
    ec2_certificate: x509.Certificate
    notice: str = ""
    """A doubt about the certificate, or ''."""


def find_migration_keys(request: MigrationRequest, settings: Settings, roots: Roots | None = None) -> MigrationKeys:
    """Read the keys. Raises `RefusedError`. Blocks on files, which must lie within the `roots`."""
    owner = find_owner(settings, request.certificate, request.private_key, roots)
    identity = owner.private_identity
    certificate, notice = find_ec2_certificate(
        request.region, explicit=request.ec2_certificate, configured=settings.ec2_certificates, roots=roots
    )
    return MigrationKeys(identity=identity, ec2_certificate=certificate, notice="" if settings.endpoint_url else notice)


@asynccontextmanager
async def open_source(
    folder: Location, request: MigrationRequest, settings: Settings, aws: Aws
) -> AsyncIterator[Place]:
    """Open the place of the bundle, with its own endpoint and profile. Raises `AmistreamError`."""
    # The settings' region is the target's.
    settings = settings.model_copy(update={"region": ""})
    url, profile = request.source_endpoint_url, request.source_profile
    async with AsyncExitStack() as stack:
        if profile:
            aws = await stack.enter_async_context(Aws(settings, profile=profile))
        yield await open_place(folder, settings, aws, endpoint_url=url)


def migration_options(
    bundle: Bundle, target: BucketPlace, keys: MigrationKeys, request: MigrationRequest, settings: Settings
) -> MigrationOptions:
    """Choose the values of the new manifest. Raises `RefusedError` for a kernel that is not known there."""
    place, manifest = bundle.place, bundle.manifest
    stays = isinstance(place, BucketPlace) and place.region == target.region
    return MigrationOptions(
        identity=keys.identity,
        ec2_certificate=keys.ec2_certificate,
        kernel=kernel_for_region("kernel", manifest.kernel, request.kernel, stays=stays),
        ramdisk=kernel_for_region("ramdisk", manifest.ramdisk, request.ramdisk, stays=stays),
        registration=request.registration,
        server_side=is_one_service(request, settings),
    )


def is_one_service(request: MigrationRequest, settings: Settings) -> bool:
    """One service, with the same credentials, has source and target: it may copy parts by itself."""
    url = request.source_endpoint_url.rstrip("/")
    return not request.source_profile and url in ("", settings.endpoint_url.rstrip("/"))


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
    check_migration_signature(bundle, options.identity, note)
    raw = await asyncio.to_thread(new_manifest, bundle.manifest, options)
    new = Bundle(place=target, manifest_name=bundle.manifest_name, manifest=parse_manifest(raw, bundle.manifest_name))
    ec2 = await ec2_of(target.region, settings, aws)
    intent: Intent | None = None

    async def prepare(_: list[StoredPart]) -> None:
        nonlocal intent
        if options.registration is not None:
            intent = await check_registration(new, options.registration, settings, ec2, note)

    sender = PartSender(bundle, target.store, note, server_side=options.server_side)
    limit = partial(parts_in_flight, settings)
    done = await copy_bundle(
        bundle, target.store, meter, note, prepare=prepare, send=sender.send, limit=limit, new_manifest=raw
    )
    image = await carry_out(new, intent, settings, ec2, note) if intent else None
    return Migrated(
        **dict(done),
        region=target.region,
        copied=sender.copied_by_s3,
        kernel=new.manifest.kernel or None,
        ramdisk=new.manifest.ramdisk or None,
        image=image,
    )


def _measured(manifest: Manifest) -> Measured:
    """Convert the old manifest to the stages' results; values it does not have are not written either."""
    parts = tuple(PartDigest(index=part.index, size=0, sha1=bytes.fromhex(part.digest)) for part in manifest.parts)
    return Measured(
        image_size=manifest.size,
        archive=ArchiveResult(size=0, sha1=bytes.fromhex(manifest.digest)),
        gzip=GzipResult(crc32=0, size_in=0, size_out=0),
        split=SplitResult(parts=parts, bundled_size=manifest.bundled_size),
    )
