"""Removes the AMI, manifest and parts that a job made and did not finish, and nothing that anyone else made.

Every removal of a job's things comes through here. The journal holds a checksum of each, and an object is deleted only
if it has that checksum. A bundle stays if another AMI is registered from it: EC2 is asked before the manifest goes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from amistream.aws import buckets
from amistream.aws.regions import on_aws
from amistream.checks.destination import Destination, OpenDestination, open_destination
from amistream.errors import DeniedError, JobError, NotSupportedError, StoreError
from amistream.flow.gather import gather_limited, try_each
from amistream.flow.retry import with_retries
from amistream.flow.undo import Progress
from amistream.jobs.proof import names_to_tidy
from amistream.jobs.records import JournalEntry, SealedPart
from amistream.location import DirectoryLocation, S3Location
from amistream.ports.store import Store, find, sha1_of, whole_checksum
from amistream.ports.unanswered import AMI
from amistream.stages.register import find_ours
from amistream.values import manifest_name, part_name


async def remove_kept(
    addresses: Sequence[Destination],
    entry: JournalEntry,
    parts: Sequence[SealedPart],
    progress: Progress,
    *,
    earlier: Sequence[SealedPart],
    opened: Mapping[int, OpenDestination],
    note: Callable[[str], None],
) -> None:
    """Remove AMI, manifest and parts from every destination that is not finished. Raises the first error of all.

    `opened` destinations stay open; their stores know the unfinished uploads of this run. `earlier` are the parts that
    an earlier run may have left unfinished.
    """

    async def remove_part(store: Store, prefix: str, part: SealedPart) -> None:
        name = part_name(prefix, part.digest.index)
        await store.remove(name, part.digest.size, *part.checksums, progress=partial(progress, compared=True))
        progress()

    async def remove_at(number: int) -> None:
        address = addresses[number]
        if entry.bundling is None:
            await _remove_probe(address)
            return
        destination = opened.get(number) or await open_destination(address, entry.bundling.places[number])
        try:
            await destination.store.tidy(names_to_tidy(address.prefix, earlier))
            if number in entry.manifests:
                await _remove_manifest(address, destination, entry, number)
                progress()
            await _refuse_another(destination.store, address.prefix, parts, progress)
            await try_each(partial(remove_part, destination.store, address.prefix), parts)
            if isinstance(address.location, S3Location):
                # The preflight of every run puts one.
                await destination.store.delete(address.probe_name)
        finally:
            if number not in opened:
                await leave(destination.store, note)

    await try_each(remove_at, [number for number in range(len(addresses)) if number not in entry.done])


async def leave(store: Store, note: Callable[[str], None]) -> None:
    """Close a store after a removal: a directory that the job made is removed if it is empty, or noted."""
    try:
        await store.close()
    except StoreError as error:
        note(error.message)


async def _remove_manifest(
    address: Destination, destination: OpenDestination, entry: JournalEntry, number: int
) -> None:
    """Deregister the job's AMI and delete its manifest. Raises `JobError` if the manifest has another AMI."""
    name, manifest = manifest_name(address.prefix), entry.manifests[number]
    checksum = whole_checksum(sha1_of(manifest))
    if isinstance(address.location, S3Location):
        ec2, registration, retry = destination.ec2, destination.registration, destination.retry
        own = entry.images.get(number, "")
        if number not in entry.images and ec2 is not None and registration is not None:
            # A request may have gone through: EC2 knows. An AMI without the mark may be the user's, made by hand.
            found = await find_ours(ec2, registration, retry)
            own = found.id if found is not None and found.is_by_job_of(registration) else ""
        if own and ec2 is not None:
            entry.images[number] = own
            await with_retries(retry, f"deregister {own}", lambda _: ec2.deregister(own))
        if number in entry.images:
            address.unanswered.forget(AMI)
        stored = await destination.store.stat(name)
        if stored is not None and stored.is_the(len(manifest), checksum):
            # EC2 may still show the job's own.
            await _refuse_registered(address, destination, address.location.plain(name), own)
    await destination.store.remove(name, len(manifest), checksum)


async def _refuse_another(store: Store, prefix: str, parts: Sequence[SealedPart], progress: Progress) -> None:
    """Raise `JobError` if there are parts of the job and another's manifest: a copy of this bundle may use them."""
    name = manifest_name(prefix)
    if await store.stat(name, read=False) is None:
        return

    async def is_there(part: SealedPart) -> bool:
        name, compared = part_name(prefix, part.digest.index), partial(progress, compared=True)
        found = await find(store, name, part.digest.size, compared)
        return found is not None and found.is_the(part.digest.size, *part.checksums)

    if any(await gather_limited(is_there, parts)):
        whole = f"{store.location}/{name}"
        raise JobError(
            "job.another_bundle",
            f"cannot remove the parts in {store.location}: the manifest of another bundle, {name}, may need them",
            hint=f"`amistream verify {whole}` says if it does; `amistream delete {whole}` removes that bundle first",
        )


async def _refuse_registered(address: Destination, destination: OpenDestination, location: str, own: str) -> None:
    """Raise `JobError` if an AMI that is not this job's `own` is registered from the manifest at `location`."""
    ec2 = destination.ec2 or await address.ec2(destination.region)
    try:
        images = await with_retries(destination.retry, f"look for AMIs of {location}", lambda _: ec2.own_images())
    except StoreError as error:
        if destination.ec2 is not None:
            raise
        if isinstance(error, DeniedError | NotSupportedError) and _is_s3_only(address, error):
            return  # the job registers nothing, and nobody can
        way_out = f"if no AMI uses it, first: amistream delete s3://{location} --no-ec2"
        raise error.reworded(hint="; or, ".join(filter(None, (error.hint, way_out)))) from error
    others = [image for image in images if image.id != own and image.location in (location, "")]
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


def _is_s3_only(address: Destination, denial: StoreError) -> bool:
    """Tell an endpoint that refuses whatever is not S3 from an EC2 that permits this user nothing."""
    elsewhere = bool(address.endpoint_url) and not on_aws(address.endpoint_url)
    return elsewhere and denial.code != "aws.UnauthorizedOperation"


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
