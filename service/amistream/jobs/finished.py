"""Finds that an earlier attempt of a named job has finished a bundle, and reads the result from what is there.

A manifest is the job's if it has the job's mark. The bundle is finished if all of its parts are of the same run: a
manifest that was put after a later attempt had begun to remove its parts is torn.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime

from amistream.aws.ec2 import Ec2, permitted
from amistream.bundles.manifest import Manifest
from amistream.bundles.meter import Meter
from amistream.bundles.place import Bundle, Place, find_bundle
from amistream.bundles.register import images_on, registration_of
from amistream.bundles.survey import survey
from amistream.checks.destination import Destination
from amistream.checks.free_place import exists_error
from amistream.errors import JobError, RefusedError
from amistream.events import BundleResult, PlaceResult
from amistream.flow.gather import gather_limited
from amistream.flow.retry import with_retries
from amistream.jobs.claim import Claim
from amistream.jobs.job import Job
from amistream.location import DirectoryLocation
from amistream.ports.registry import JOB_TAG, Ami, Registration
from amistream.ports.store import Mark, Stored
from amistream.stages.register import RegistrationAttempt
from amistream.values import manifest_name


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The manifest of another run of the job. `bundle` is None if it is torn."""

    bundle: Bundle | None


async def find_manifest(claim: Claim, place: Place, *, is_own: bool) -> Found | None:
    """Look for a manifest of another run of the job; None if there is none, or this run's own.

    `is_own`: this run has put one, or was about to. Raises `RefusedError` for another job's.
    """
    name = manifest_name(claim.prefix)
    stored = await claim.store.stat(name, read=False)
    if stored is None:
        return None
    if claim.store.keeps_marks:
        if not claim.is_of_another_run(stored):
            if is_own:
                return None
            raise exists_error(claim.store, claim.prefix)
        claim.check_request(stored, name)
    elif is_own:
        return None
    elif not await claim.is_of_the_job():
        raise exists_error(claim.store, claim.prefix)
    try:
        bundle = await find_bundle(place, name)
    except RefusedError:
        return Found(bundle=None)
    return Found(bundle=bundle if await _is_whole(bundle, stored.mark) else None)


async def _is_whole(bundle: Bundle, mark: Mark | None) -> bool:
    if mark is None:
        return not (await survey(bundle, Meter(), read=True)).differences

    async def look(name: str) -> Stored | None:
        return await bundle.place.store.stat(name, read=False)

    found = await gather_limited(look, [part.filename for part in bundle.manifest.parts])
    sizes = [stored.size for stored in found if stored is not None and stored.mark == mark]
    return len(sizes) == len(found) and sum(sizes) == bundle.manifest.bundled_size


async def refuse_registered(place: Place, name: str, address: Destination) -> None:
    """Raise `JobError` if an AMI is registered from the manifest, which is to be removed because it is torn."""
    if isinstance(address.location, DirectoryLocation) or not address.request.registers:
        return
    images, _ = await images_on(place, name, await address.ec2(place.region), address.settings)
    if images:
        raise JobError(
            "job.registered",
            f"cannot bundle to {place.store.location} again: {images[0].id} is registered from the bundle there, and "
            "parts of that are missing",
            hint=f"if nobody needs it, first: amistream deregister {images[0].id}",
        )


async def finished_place(bundle: Bundle, address: Destination, job: Job, destination: str) -> PlaceResult:
    """The result of a destination as an earlier attempt left it. An AMI that is missing is registered."""
    ec2, registration = await _registration(bundle, address)
    image_id = None
    if ec2 is not None and registration is not None:
        image = await _find_image(bundle, ec2, registration, address)
        image_id = image.id if image is not None else await _register(ec2, registration, address, job)
    return PlaceResult(
        destination=destination,
        manifest=bundle.address,
        region=bundle.place.region or None,
        image_id=image_id,
        image_name=registration.name if registration else None,
    )


def finished_result(manifest: Manifest) -> BundleResult:
    """The result of a bundle as its manifest has it, with no destination in it yet."""
    return BundleResult(
        manifest="",
        image_id=None,
        image_name=None,
        region=None,
        image_size=manifest.size,
        bundled_size=manifest.bundled_size,
        parts=len(manifest.parts),
        digest=manifest.digest,
        elapsed_s=0,
        cpu_s=0,
        stages=(),
    )


async def _registration(bundle: Bundle, address: Destination) -> tuple[Ec2 | None, Registration | None]:
    request, now = address.request, datetime.now(UTC)
    if not request.registers or isinstance(address.location, DirectoryLocation):
        return None, None
    options = Registration(
        name=request.ami_name or address.default_image_name(now),
        virtualization=request.virtualization,
        description=request.description or "",
        sriov=request.sriov,
        ena=request.ena,
    )
    registration = registration_of(bundle, options, now)
    return await address.ec2(bundle.place.region), replace(registration, tags={**request.tags, JOB_TAG: address.tag})


async def _find_image(bundle: Bundle, ec2: Ec2, registration: Registration, address: Destination) -> Ami | None:
    """The AMI of the bundle, whoever registered it."""
    what = f"look for an AMI named {registration.name!r}"
    found = await with_retries(address.retry, what, lambda _: ec2.find(registration.name))
    if found is not None and (found.is_of(registration) or found.is_by_job_of(registration)):
        return found
    images, _ = await images_on(bundle.place, bundle.manifest_name, ec2, address.settings)
    return images[0] if images else None


async def _register(ec2: Ec2, registration: Registration, address: Destination, job: Job) -> str:
    registration = await permitted(ec2, registration, address.retry)
    await job.confirm()
    settings = address.settings
    attempt = RegistrationAttempt(registry=ec2, registration=registration, retry=address.retry, look_first=True)
    return await attempt.run(timeout_s=settings.register_timeout_s, poll_s=settings.register_poll_s)
