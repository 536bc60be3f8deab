"""Removes the AMI, manifest and parts that a job made and did not finish, and nothing that anyone else made.

The journal holds a checksum of each, and an object is deleted only if it has that checksum. A bundle stays if another
AMI is registered from it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from amistream.aws import buckets
from amistream.aws.ec2 import Ec2
from amistream.checks.destination import Destination, open_destination
from amistream.errors import JobError
from amistream.flow.gather import gather_limited, try_each
from amistream.flow.retry import RetryPolicy, with_retries
from amistream.jobs.proof import names_to_tidy
from amistream.jobs.records import JournalEntry, SealedPart
from amistream.location import DirectoryLocation, S3Location
from amistream.plan import BundlingPlace
from amistream.ports.registry import Registration
from amistream.ports.store import Store, sha1_of, whole_checksum
from amistream.stages.register import deregister_ours
from amistream.values import manifest_name, part_name


async def remove(store: Store, prefix: str, parts: Sequence[SealedPart], manifest: bytes | None) -> None:
    """Delete the job's manifest, then its parts; objects of others under those names stay."""

    async def remove_part(part: SealedPart) -> None:
        await store.remove(part_name(prefix, part.digest.index), part.digest.size, *part.checksums)

    await store.tidy(names_to_tidy(prefix, parts))
    if manifest is not None:
        sha1 = sha1_of(manifest)
        await store.remove(manifest_name(prefix), len(manifest), whole_checksum(sha1))
    await gather_limited(remove_part, parts)


async def remove_kept(
    addresses: Sequence[Destination], entry: JournalEntry, parts: Sequence[SealedPart], *, undone: Collection[str] = ()
) -> None:
    """Remove AMI, manifest and parts from every destination that is not finished. Raises the first error of all.

    `undone` are AMIs that were deregistered just now and that EC2 may still show.
    """

    async def remove_at(place: tuple[int, Destination]) -> None:
        number, address = place
        if entry.bundling is None:
            await _remove_probe(address)
        elif number not in entry.done:
            settled, manifest = entry.bundling.places[number], entry.manifests.get(number)
            await _remove_at(address, settled, manifest, parts, image=entry.images.get(number), undone=undone)

    await try_each(remove_at, enumerate(addresses))


async def _refuse_registered(ec2: Ec2, registration: Registration, retry: RetryPolicy, undone: Collection[str]) -> None:
    """Raise `JobError` if an AMI that is not this job's is registered from the bundle."""
    location = registration.location
    images = await with_retries(retry, f"look for AMIs of {location}", lambda _: ec2.own_images())
    for image in images:
        if image.location == location and image.id not in undone:
            raise JobError(
                "job.registered",
                f"cannot remove s3://{location}: the AMI {image.id} is registered from it",
                hint=f"if nobody needs it, first: amistream deregister {image.id}; if it has the name that the job was "
                "to give it, resume the job, which takes it as its own",
            )


async def _remove_at(
    address: Destination,
    place: BundlingPlace,
    manifest: bytes | None,
    parts: Sequence[SealedPart],
    *,
    image: str | None,
    undone: Collection[str],
) -> None:
    destination = await open_destination(address, place)
    ec2, registration = destination.ec2, destination.registration
    try:
        if manifest is not None and ec2 is not None and registration is not None:
            own = await deregister_ours(ec2, registration, destination.retry, image)
            await _refuse_registered(ec2, registration, destination.retry, {*undone, own})
        await remove(destination.store, address.prefix, parts, manifest)
        if isinstance(address.location, S3Location):
            # The preflight of every run puts one.
            await destination.store.delete(address.probe_name)
    finally:
        await destination.store.close()


async def _remove_probe(address: Destination) -> None:
    """Delete the only object that a run makes before it begins to bundle."""
    match address.location:
        case S3Location(bucket):
            region = await buckets.bucket_region(
                address.aws,
                bucket,
                region=address.request.region or "",
                endpoint_url=address.endpoint_url,
                timeout_s=address.settings.stall_timeout_s,
            )
            await (await address.store(region)).delete(address.probe_name)
        case DirectoryLocation():
            pass
