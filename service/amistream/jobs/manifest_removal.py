"""Removes a manifest that a job put, or was about to put, and the AMI that the job registered from it.

The manifest goes only if it has the bytes that the journal holds, and stays if another AMI is registered from it: EC2
is asked before. Without the manifest there is no bundle any more, so this comes before its parts are removed. An AMI
that another attempt of a named job has registered looks like this one's, and so may its manifest: the claim is looked
at right before each of them goes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from amistream.aws.regions import on_aws
from amistream.errors import DeniedError, JobError, NotSupportedError, StoreError
from amistream.flow.retry import RetryPolicy, with_retries
from amistream.location import Location, S3Location
from amistream.ports.registry import Registration
from amistream.ports.store import Store, sha1_of, whole_checksum
from amistream.ports.unanswered import AMI
from amistream.stages.register import find_ours

if TYPE_CHECKING:
    from amistream.aws.ec2 import Ec2


@dataclass(kw_only=True, eq=False)
class OwnManifest:
    """The manifest of a job. `registry` and `registration` are both None where the job registers nothing."""

    store: Store
    location: Location
    name: str
    raw: bytes
    image: str | None
    """The id of the job's AMI; '' when none was registered; None while that is unknown. Kept up to date."""
    registration: Registration | None
    registry: Ec2 | None
    retry: RetryPolicy
    endpoint_url: str
    open_ec2: Callable[[], Awaitable[Ec2]]
    """Opens EC2 in the region of the bucket, whether or not the job registers."""
    check: Callable[[], Awaitable[object]]
    """Raises `FencedError` once another host may have the job."""

    def know_image(self, image_id: str) -> None:
        self.image = image_id


async def remove_manifest(manifest: OwnManifest) -> None:
    """Deregister the job's AMI and delete its manifest. Raises `JobError` if the manifest has another AMI."""
    store, name, size = manifest.store, manifest.name, len(manifest.raw)
    checksum = whole_checksum(sha1_of(manifest.raw))
    if isinstance(manifest.location, S3Location):
        await _deregister(manifest)
        stored = await store.stat(name)
        if stored is not None and stored.is_the(size, checksum):
            # EC2 may still show the job's own.
            await _refuse_registered(manifest, manifest.location.plain(name))
    await manifest.check()
    await store.remove(name, size, checksum)


async def _deregister(manifest: OwnManifest) -> None:
    ec2, registration, retry = manifest.registry, manifest.registration, manifest.retry
    if manifest.image is None and ec2 is not None and registration is not None:
        # A request may have gone through: EC2 knows. An AMI without the mark may be the user's, made by hand.
        found = await find_ours(ec2, registration, retry)
        if found is not None and found.is_by_job_of(registration):
            manifest.know_image(found.id)
    if (own := manifest.image) and ec2 is not None:
        await manifest.check()
        await with_retries(retry, f"deregister {own}", lambda _: ec2.deregister(own))
    if manifest.image is not None:
        manifest.store.unanswered.forget(AMI)


async def _refuse_registered(manifest: OwnManifest, location: str) -> None:
    """Raise `JobError` if an AMI that is not the job's own is registered from the manifest at `location`."""
    ec2 = manifest.registry or await manifest.open_ec2()
    try:
        images = await with_retries(manifest.retry, f"look for AMIs of {location}", lambda _: ec2.own_images())
    except StoreError as error:
        if manifest.registry is not None:
            raise
        if isinstance(error, DeniedError | NotSupportedError) and _is_s3_only(manifest, error):
            return  # the job registers nothing, and nobody can
        way_out = f"if no AMI uses it, first: amistream delete s3://{location} --no-ec2"
        raise error.reworded(hint="; or, ".join(filter(None, (error.hint, way_out)))) from error
    others = [image for image in images if image.id != manifest.image and image.location in (location, "")]
    if others:
        image = max(others, key=lambda each: each.location)
        found = f"the AMI {image.id} is registered from it"
        hint = (
            f"if nobody needs it, first: amistream deregister {image.id}; if it has the name that the job was to give "
            "it, resume the job, which takes it as its own"
        )
        if not image.location:
            found = f"EC2 does not report from which bundle {image.id} is registered, so it may be this one"
            hint = f"if no AMI uses it, first: amistream delete s3://{location} --no-ec2"
        raise JobError("job.registered", f"cannot remove s3://{location}: {found}", hint=hint)


def _is_s3_only(manifest: OwnManifest, denial: StoreError) -> bool:
    """Tell an endpoint that refuses whatever is not S3 from an EC2 that permits this user nothing."""
    elsewhere = bool(manifest.endpoint_url) and not on_aws(manifest.endpoint_url)
    return elsewhere and denial.code != "aws.UnauthorizedOperation"
