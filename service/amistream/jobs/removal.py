"""Removes the AMI, manifest and parts that a job made and did not finish, and nothing that anyone else made.

Every removal of a job's things comes through here. The journal holds a checksum of each, and an object is deleted only
if it has that checksum. A bundle stays if another AMI is registered from it: EC2 is asked before the manifest goes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial

from amistream.checks.destination import Destination, OpenDestination, open_destination
from amistream.errors import JobError, RefusedError, StoreError
from amistream.flow.gather import gather_limited, try_each
from amistream.flow.undo import Progress
from amistream.jobs.manifest_removal import OwnManifest, remove_manifest
from amistream.jobs.proof import names_to_tidy
from amistream.jobs.records import JournalEntry, SealedPart
from amistream.location import DirectoryLocation, S3Location
from amistream.ports.store import Store, find
from amistream.values import manifest_name, part_name

_NO_BUCKET = {"bucket.missing", "aws.NoSuchBucket"}


async def remove_kept(
    addresses: Sequence[Destination],
    entry: JournalEntry,
    parts: Sequence[SealedPart],
    progress: Progress,
    *,
    earlier: Sequence[SealedPart],
    opened: Mapping[int, OpenDestination],
    is_ours: Callable[[int], Awaitable[bool]],
    check: Callable[[int], Awaitable[object]],
    check_lease: Callable[[], object],
    note: Callable[[str], None],
) -> None:
    """Remove AMI, manifest and parts from every destination that is not finished. Raises the first error of all.

    `opened` destinations stay open; their stores know the unfinished uploads of this run. `earlier` are the parts that
    an earlier run may have left unfinished. Destinations that another host has by now, by `is_ours`, stay as they are;
    `check` and `check_lease` raise `FencedError` once that is so in the middle of a removal. Parts of another attempt
    have another key and so other bytes: before each part the lease is enough.
    """

    async def remove_part(store: Store, prefix: str, part: SealedPart) -> None:
        name = part_name(prefix, part.digest.index)
        check_lease()
        await store.remove(name, part.digest.size, *part.checksums, progress=partial(progress, compared=True))
        progress()

    async def remove_at(number: int) -> None:
        address = addresses[number]
        if not await is_ours(number):
            note(f"nothing is removed from {address.location}: another host has this job, or has ended it")
            return
        removal = remove_there(number, address)
        # With a manifest there may be an AMI, which outlives the bucket.
        await (removal if number in entry.manifests else _unless_gone(removal, address, note))

    async def remove_there(number: int, address: Destination) -> None:
        if entry.bundling is None:
            await _remove_probe(address)
            return
        destination = opened.get(number) or await open_destination(address, entry.bundling.places[number])
        try:
            await destination.store.tidy(names_to_tidy(address.prefix, earlier))
            if number in entry.manifests:
                manifest = _manifest_of(address, destination, entry, number, partial(check, number))
                try:
                    await remove_manifest(manifest)
                finally:
                    if manifest.image is not None:
                        entry.images[number] = manifest.image
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


async def _unless_gone(removal: Awaitable[None], address: Destination, note: Callable[[str], None]) -> None:
    """Wait for a removal, and note that nothing is left where the bucket was deleted."""
    try:
        await removal
    except (RefusedError, StoreError) as error:
        if error.code not in _NO_BUCKET:
            raise
        note(f"nothing is left to remove at {address.location}: the bucket does not exist any more")


async def leave(store: Store, note: Callable[[str], None]) -> None:
    """Close a store after a removal: a directory that the job made is removed if it is empty, or noted."""
    try:
        await store.close()
    except StoreError as error:
        note(error.message)


def _manifest_of(
    address: Destination,
    destination: OpenDestination,
    entry: JournalEntry,
    number: int,
    check: Callable[[], Awaitable[object]],
) -> OwnManifest:
    return OwnManifest(
        store=destination.store,
        location=address.location,
        name=manifest_name(address.prefix),
        raw=entry.manifests[number],
        image=entry.images.get(number),
        registration=destination.registration,
        registry=destination.ec2,
        retry=destination.retry,
        endpoint_url=address.endpoint_url,
        open_ec2=partial(address.ec2, destination.region),
        check=check,
    )


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


async def _remove_probe(address: Destination) -> None:
    """Delete the only object that a run makes before it begins to bundle."""
    match address.location:
        case S3Location(bucket):
            from amistream.aws import buckets  # noqa: PLC0415 - as the SDK, for the first request

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
