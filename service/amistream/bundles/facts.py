"""Reports the content of a manifest, and the AMIs and snapshots that were made of it. Needs no key."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from amistream.aws.ec2 import Ec2
from amistream.aws.ec2_snapshots import Ec2Snapshots
from amistream.bundles.meter import Note
from amistream.bundles.place import Bundle
from amistream.bundles.register import images_on
from amistream.bundles.results import BundleFacts
from amistream.errors import StoreError
from amistream.flow.retry import retry_policy, with_retries
from amistream.ports.registry import BUNDLE_TAG, tag_of_bundle
from amistream.ports.snapshots import SnapshotState
from amistream.settings import Settings

Ids = tuple[str, ...] | None
"""None: unknown."""


async def bundle_facts(bundle: Bundle, settings: Settings, ec2: Ec2 | None, note: Note) -> BundleFacts:
    """Report on a bundle. Without `ec2`, or if EC2 refuses, what was made of it is unknown."""
    manifest = bundle.manifest

    async def found(what: str, look: Callable[[Bundle, Settings, Ec2], Awaitable[Ids]]) -> Ids:
        if ec2 is None:
            return None
        try:
            return await look(bundle, settings, ec2)
        except StoreError as error:
            note(f"{what} are not shown: {error.message}")
            return None

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
        images=await found("AMIs", _images),
        converted=await found("AMIs on EBS", _converted),
        snapshots=await found("snapshots", _snapshots),
    )


async def _images(bundle: Bundle, settings: Settings, ec2: Ec2) -> Ids:
    known, unclear = await images_on(bundle.place, bundle.manifest_name, ec2, settings)
    # Some endpoints do not report on which bundle an AMI is registered.
    return tuple(image.id for image in known) if known or not unclear else None


async def _converted(bundle: Bundle, settings: Settings, ec2: Ec2) -> Ids:
    what = f"list the AMIs in {ec2.region}"
    images = await with_retries(retry_policy(settings), what, lambda _: ec2.converted_images())
    return tuple(image.id for image in images if image.tags[BUNDLE_TAG] == tag_of_bundle(bundle.address))


async def _snapshots(bundle: Bundle, settings: Settings, ec2: Ec2) -> Ids:
    tag, snapshots = tag_of_bundle(bundle.address), Ec2Snapshots(ec2.client, ec2.region, ec2.timeout_s)
    what = f"list the snapshots of {tag}"
    found = await with_retries(retry_policy(settings), what, lambda _: snapshots.find(BUNDLE_TAG, tag))
    return tuple(each.id for each in found if each.state is SnapshotState.COMPLETED)
