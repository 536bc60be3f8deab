"""Finds the bundles of a bucket that have no AMI on EBS yet: a tag on the AMI says of which bundle it was made."""

from __future__ import annotations

from amistream.aws.session import Aws
from amistream.bundles.listing import take_inventory
from amistream.bundles.meter import Note
from amistream.bundles.place import BucketPlace
from amistream.bundles.register import ec2_of
from amistream.bundles.results import ConvertibleBundle
from amistream.flow.retry import retry_policy, with_retries
from amistream.ports.registry import BUNDLE_TAG, tag_of_bundle
from amistream.settings import Settings


async def find_convertible(
    place: BucketPlace, settings: Settings, aws: Aws, note: Note, *, region: str
) -> list[ConvertibleBundle]:
    """List the bundles in order of their addresses. Raises `StoreError` where EC2 does not show its AMIs."""
    ec2 = await ec2_of(region, settings, aws)
    what = f"list the AMIs in {region}"
    images = await with_retries(retry_policy(settings), what, lambda _: ec2.converted_images())
    made = {image.tags[BUNDLE_TAG]: image.id for image in images}
    inventory = await take_inventory(place, settings, None, note)
    return [
        ConvertibleBundle(
            manifest=bundle.manifest,
            image_size=bundle.image_size,
            stored=bundle.stored,
            image_id=made.get(tag_of_bundle(bundle.manifest), ""),
            problem=bundle.problem,
        )
        for bundle in sorted(inventory.bundles, key=lambda each: each.manifest)
    ]
