"""Reports the content of a manifest, and the AMIs that are registered from it. Needs no key."""

from __future__ import annotations

from amistream.aws.ec2 import Ec2
from amistream.bundles.meter import Note
from amistream.bundles.place import Bundle
from amistream.bundles.register import images_on
from amistream.bundles.results import BundleFacts
from amistream.errors import StoreError
from amistream.settings import Settings


async def bundle_facts(bundle: Bundle, settings: Settings, ec2: Ec2 | None, note: Note) -> BundleFacts:
    """Report on a bundle. Without `ec2`, or if EC2 refuses, its AMIs are unknown."""
    manifest = bundle.manifest
    return BundleFacts(
        manifest=bundle.address,
        bundler=manifest.bundler,
        bundler_version=manifest.bundler_version,
        account=manifest.user,
        architecture=manifest.architecture,
        kind=manifest.kind,
        image_name=manifest.name,
        image_size=manifest.size,
        bundled_size=manifest.bundled_size,
        parts=len(manifest.parts),
        archive_sha1=manifest.digest,
        kernel=manifest.kernel,
        ramdisk=manifest.ramdisk,
        block_device_mappings=manifest.block_device_mappings,
        product_codes=manifest.product_codes,
        ancestors=manifest.ancestors,
        images=await _images(bundle, settings, ec2, note),
    )


async def _images(bundle: Bundle, settings: Settings, ec2: Ec2 | None, note: Note) -> tuple[str, ...] | None:
    if ec2 is None:
        return None
    try:
        known, unclear = await images_on(bundle.place, bundle.manifest_name, ec2, settings)
    except StoreError as error:
        note(f"AMIs are not shown: {error.message}")
        return None
    # Some endpoints do not report on which bundle an AMI is registered.
    return tuple(image.id for image in known) if known or not unclear else None
