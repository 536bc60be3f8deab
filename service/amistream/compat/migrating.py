"""The old commands that make a bundle fit another region: its manifest in place, or all of it in another bucket."""

from __future__ import annotations

import asyncio
from pathlib import Path

from lxml import etree

from amistream.aws.regions import find_ec2_certificate
from amistream.bundles.manifest import Manifest, check_signature
from amistream.bundles.meter import Meter
from amistream.bundles.migrate import MigrationOptions, MigrationRequest, kernel_for_region, new_manifest
from amistream.bundles.place import read_manifest
from amistream.cli.output import put_note, put_result
from amistream.compat.access import ami_tools_keys, bucket_address, region_of, settings_of
from amistream.compat.options import Given
from amistream.compat.session import ANY_REGION, OldSession, run_old
from amistream.errors import EXIT_DONE, DifferenceError, RefusedError
from amistream.host.new_file import NewFile
from amistream.keys import UserIdentity, load_identity
from amistream.reports import Migrated, Signature
from amistream.stages.manifest import serialise
from amistream.values import quoted


def migrate_manifest(given: Given) -> int:
    """`ec2-migrate-manifest`: rewrites a manifest, and keeps the old one beside it."""
    path = Path(given["manifest"]).absolute()
    # Without a region it was for the one of Amazon's usual certificate.
    region = region_of(given["region"]) or ("" if given.has("ec2cert") else settings_of(given).region or ANY_REGION)
    backup = path.with_name(f"{path.name}.bak")
    if backup.exists():
        raise RefusedError(
            "manifest.backup",
            f"cannot keep the old manifest as {backup}: there is one already",
            hint="move it away, or compare the two and delete one",
        )
    _rewrite(path, backup, asyncio.run(_migrated(given, path, region)))
    put_note(f"note: the old manifest is kept as {backup}")
    put_result(f"Migrated {path} for {region or 'the owner of ' + given['ec2cert']}.")
    return EXIT_DONE


def migrate_bundle(given: Given) -> int:
    """`ec2-migrate-bundle`: copies a bundle to another region's bucket, which is made when missing."""
    source, target = bucket_address(given["bucket"]), bucket_address(given["destination-bucket"])
    region = region_of(given["region"]) or region_of(given["location"]) or settings_of(given).region or ANY_REGION
    address = f"{source}/{Path(given['manifest']).name}"
    certificate, private_key, ec2_certificate = (
        Path(given[key]).absolute() if given.has(key) else None for key in ("cert", "privatekey", "ec2cert")
    )

    async def work(session: OldSession, meter: Meter) -> Migrated:
        await session.make_missing(target, region_of(given["location"]) or region)
        kept = await session.kernel_and_ramdisk(address) if given.has("no-mapping") else ("", "")
        request = MigrationRequest(
            region=region,
            certificate=certificate,
            private_key=private_key,
            ec2_certificate=ec2_certificate,
            kernel=given["kernel"] or kept[0] or None,
            ramdisk=given["ramdisk"] or kept[1] or None,
        )
        return await session.migrate(address, target, meter, request)

    done = run_old(settings_of(given, url=given["url"]), ami_tools_keys(given), work, "copying")
    put_result(f"Copied {done.parts} parts.\nMigrated {done.manifest} for {region}.")
    return EXIT_DONE


async def _migrated(given: Given, path: Path, region: str) -> bytes:
    """The manifest as it is to be. Raises `AmistreamError`."""
    manifest = await read_manifest(path)
    settings = settings_of(given)
    identity = load_identity(Path(given["cert"]), Path(given["privatekey"]), exposed_too=settings.allow_exposed_key)
    if check_signature(manifest, identity.certificate) is Signature.WRONG:
        raise DifferenceError(
            "manifest.signature",
            f"cannot migrate {path}: its signature is not by that certificate, or it was changed since",
        )
    certificate, notice = find_ec2_certificate(
        region,
        explicit=Path(given["ec2cert"]) if given.has("ec2cert") else None,
        configured=settings.ec2_certificates,
    )
    if notice:
        put_note(f"note: {notice}")
    stays = given.has("no-mapping")
    options = MigrationOptions(
        identity=identity,
        ec2_certificate=certificate,
        kernel=kernel_for_region("kernel", manifest.kernel, given["kernel"] or None, stays=stays),
        ramdisk=kernel_for_region("ramdisk", manifest.ramdisk, given["ramdisk"] or None, stays=stays),
    )
    return _with_names(new_manifest(manifest, options), manifest, identity)


def _with_names(raw: bytes, manifest: Manifest, identity: UserIdentity) -> bytes:
    """The new manifest with the names that the parts beside it have: a new one has amistream's own."""
    root = etree.fromstring(raw)
    for element, part in zip(root.iterfind("image/parts/part/filename"), manifest.parts, strict=True):
        element.text = part.filename
    signed = b"".join(serialise(part) for part in root if part.tag in {"machine_configuration", "image"})
    for signature in root.iterfind("signature"):
        signature.text = identity.sign(signed).hex()
    return b"<?xml version='1.0'?>" + serialise(root)


def _rewrite(path: Path, backup: Path, raw: bytes) -> None:
    """Put `raw` in the place of a file whose content is kept as `backup`: at any moment one of the two is whole."""
    try:
        with NewFile(path) as new:
            new.write(raw)
            new.sync()
            backup.hardlink_to(path)
            new.replace()
    except OSError as error:
        raise RefusedError(
            "manifest.unwritable",
            f"cannot rewrite {path}: {error.strerror}",
            hint=f"check: ls -ld {quoted(path.parent)}",
        ) from error
