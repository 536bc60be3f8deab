"""Takes up what an earlier process left: proves what is stored, and finds where to go on; or removes it.

Nothing is trusted that can be asked: a part counts as stored only when its place shows it with the size and checksum
that the journal has. Every part was entered there before it was sent, so what is found under a part's name with its
checksum is the job's own, and anything else is not.
"""

from __future__ import annotations

import asyncio
import hashlib
from bisect import bisect_right
from collections.abc import Collection, Iterable, Sequence
from itertools import takewhile

from amistream.aws import buckets
from amistream.aws.ec2 import Ec2, plain_location
from amistream.errors import JobError, StoreError
from amistream.flow.at_once import at_once, try_each
from amistream.jobs.destination import Address, Destination
from amistream.jobs.journal import Journal
from amistream.jobs.records import Bundling, BundlingPlace, Kept, SealedPart
from amistream.pipeline import Resumption
from amistream.source.kinds import AnyVolume
from amistream.stages.register import Registration, find_ours
from amistream.stores.port import Store, find, whole_checksum
from amistream.stores.retry import RetryPolicy, with_retries
from amistream.values import ChangedError, Mark, PartDigest, manifest_name, part_name


class PartLedger:
    """One job's account of its parts, kept in the journal (`stages.upload.Ledger`)."""

    def __init__(self, journal: Journal, job_id: str, parts: Iterable[SealedPart] = ()) -> None:
        """`parts` is what the journal holds, with `stored` proved."""
        self._journal = journal
        self._job_id = job_id
        self._parts = {part.digest.index: part for part in parts}

    @property
    def parts(self) -> list[SealedPart]:
        """Every part that was sealed, in order."""
        return [self._parts[number] for number in sorted(self._parts)]

    async def seal(self, part: PartDigest, mark: Mark, checksum: str) -> bool:
        known = self._parts.get(part.index)
        if known is not None:
            if known.digest != part:
                raise ChangedError(f"part {part.index} is not what was sent before")
            if not known.stored and known.checksum != checksum:
                # How it goes up, and so its checksum, is another than in an earlier run; the bytes are the same.
                # Another destination may have it as it went up before.
                earlier = tuple(each for each in (*known.earlier, known.checksum) if each != checksum)
                again = known.model_copy(update={"checksum": checksum, "earlier": earlier})
                self._parts[part.index] = again
                await self._journal.seal_again(self._job_id, again)
            return known.stored
        sealed = self._parts[part.index] = SealedPart(digest=part, mark=mark, checksum=checksum)
        try:
            await self._journal.seal(self._job_id, sealed)
        except JobError:
            del self._parts[part.index]
            raise
        return False

    async def stored(self, part: PartDigest) -> None:
        self._parts[part.index] = self._parts[part.index].model_copy(update={"stored": True})
        await self._journal.stored(self._job_id, part.index)


async def prove(store: Store, prefix: str, parts: Sequence[SealedPart]) -> list[SealedPart]:
    """The parts, each `stored` only if its place says so. Raises `StoreError` when something else has its name."""

    async def look(part: SealedPart) -> SealedPart:
        name = part_name(prefix, part.digest.index)
        found = await find(store, name, part.digest.size)
        if found is not None and not found.is_the(part.digest.size, *part.checksums):
            raise StoreError(
                "store.exists",
                f"cannot go on in {store.location}: {name} there is not the one this job stored",
                hint="something else writes to this place; cancel the job and choose another --prefix or destination",
                field="destinations",
            )
        return part.model_copy(update={"stored": found is not None})

    # First: in a directory, a part that lost its process while it got its name has two of them.
    await store.tidy({})
    proved = await at_once(look, parts)
    await store.tidy(_unfinished(prefix, (part for part in proved if not part.stored)))
    return proved


def _unfinished(prefix: str, parts: Iterable[SealedPart]) -> dict[str, str]:
    """The parts' names for `Store.tidy`, with the checksum of an object that goes up in chunks if it ever was one."""
    return {
        part_name(prefix, part.digest.index): max((part.checksum, *part.earlier), key=lambda each: "-" in each)
        for part in parts
    }


async def check_volume(bundling: Bundling, volume: AnyVolume) -> None:
    """Raise `ChangedError` when the volume has another size, or data where an earlier run saw a hole.

    Such data would never be read. A hole that grew is no matter: it reads as zeros, and all bytes are compared.
    """
    if bundling.image_size != volume.size:
        raise ChangedError(f"it had {bundling.image_size} bytes and has {volume.size}")
    known = bundling.plan.extents
    if known is None:
        return
    for extent in await asyncio.to_thread(volume.extents):
        number = bisect_right(known, extent.offset, key=lambda each: each.offset) - 1
        if number < 0 or extent.end > known[number].end:
            raise ChangedError(f"there is data behind byte {extent.offset}, where there was a hole")


def resumption(bundling: Bundling, parts: Sequence[SealedPart]) -> Resumption:
    """Where to go on: after the last part before which nothing is missing, if the stream's state there is known."""
    stored = takewhile(lambda each: each[1].stored and each[1].digest.index == each[0], enumerate(parts))
    whole = [part for _, part in stored]
    while whole and whole[-1].mark.checkpoint is None:
        whole.pop()
    return Resumption(
        mtime=bundling.mtime,
        checkpoint=whole[-1].mark.checkpoint if whole else None,
        parts=tuple(part.digest for part in whole),
        levels={number: level for part in parts for number, level in part.mark.levels.items() if level},
    )


async def check_stored(store: Store, prefix: str, parts: Sequence[SealedPart]) -> None:
    """Ask for every part: a manifest must not be put unless all are there. Raises `StoreError` naming the first."""

    async def look(part: SealedPart) -> None:
        await check_object(store, part_name(prefix, part.digest.index), part.digest.size, *part.checksums)

    await at_once(look, parts)


async def check_object(store: Store, name: str, size: int, *checksums: str) -> None:
    """Raise `StoreError` unless the place shows `name` with this size and one of the checksums."""
    found = await store.stat(name, read=False)
    if found is None or not found.is_the(size, *checksums):
        has = "it is not there" if found is None else f"it shows {found.size} bytes and checksum {found.checksum}"
        raise StoreError(
            "store.lost",
            f"cannot rely on {store.location}/{name}: {size} bytes were stored, and {has}",
            hint="something else deletes or writes there (a lifecycle rule?); `amistream resume` stores it again",
            field="destinations",
        )


async def remove(store: Store, prefix: str, parts: Sequence[SealedPart], manifest: bytes | None) -> None:
    """Delete the job's manifest, then its parts; nothing else under those names."""

    async def remove_part(part: SealedPart) -> None:
        await store.remove(part_name(prefix, part.digest.index), part.digest.size, *part.checksums)

    await store.tidy(_unfinished(prefix, parts))
    if manifest is not None:
        sha1 = hashlib.sha1(manifest, usedforsecurity=False).digest()
        await store.remove(manifest_name(prefix), len(manifest), whole_checksum(sha1))
    await at_once(remove_part, parts)


async def open_destination(address: Address, place: BundlingPlace) -> Destination:
    """The place an earlier run wrote to, with nothing checked."""
    store = await address.store(place.region)
    await store.open()
    return Destination(
        store=store,
        retry=address.retry,
        region=place.region,
        ec2=await address.ec2(place.region) if place.registration else None,
        registration=place.registration,
    )


async def remove_kept(
    addresses: Sequence[Address], kept: Kept, parts: Sequence[SealedPart], *, undone: Collection[str] = ()
) -> None:
    """Remove what the journal proves a job made where it is not done: image, manifest, parts.

    Every place is tried. Raises the first error. A bundle on which somebody else registered an image, as a job's hint
    tells to, stays. `undone` are images that were deregistered just now and may still show.
    """

    async def remove_at(place: tuple[int, Address]) -> None:
        number, address = place
        if kept.bundling is None:
            await _remove_probe(address)
        elif number not in kept.done:
            settled, manifest = kept.bundling.places[number], kept.manifests.get(number)
            await _remove_at(address, settled, manifest, parts, image=kept.images.get(number), undone=undone)

    await try_each(remove_at, enumerate(addresses))


async def _deregister(ec2: Ec2, registration: Registration, retry: RetryPolicy, image: str | None) -> str:
    """Deregister `image`, or if nothing is known of it what has its name and place; returns the id or ''."""
    if image is None:
        found = await find_ours(ec2, registration, retry)
        image = found.id if found is not None else ""
    if image:
        await ec2.deregister(image)
    return image


async def _refuse_registered(ec2: Ec2, registration: Registration, retry: RetryPolicy, undone: Collection[str]) -> None:
    location = registration.location
    images = await with_retries(retry, f"look for images on {location}", lambda _: ec2.own_images())
    for image in images:
        if plain_location(image.location) == location and image.id not in undone:
            raise JobError(
                "job.registered",
                f"cannot remove s3://{location}: {image.id} is registered on it",
                hint="if nobody needs it, first: "
                f"amistream deregister {image.id}; if it has the name that the job was to give it, resume the job, "
                "which takes it as its own",
            )


async def _remove_at(
    address: Address,
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
            own = await _deregister(ec2, registration, destination.retry, image)
            await _refuse_registered(ec2, registration, destination.retry, {*undone, own})
        await remove(destination.store, address.prefix, parts, manifest)
        if address.directory is None:
            # Every run puts one while it checks.
            await destination.store.delete(address.probe_name)
    finally:
        await destination.store.close()


async def _remove_probe(address: Address) -> None:
    """All that a run makes before it begins to bundle."""
    if address.directory is None:
        region = await buckets.bucket_region(
            address.aws,
            address.bucket,
            region=address.request.region or "",
            endpoint_url=address.endpoint_url,
            timeout_s=address.settings.stall_timeout_s,
        )
        await (await address.store(region)).delete(address.probe_name)
