"""Registers a bundle as an AMI, finds the AMIs registered on it, deregisters them.

All requests go to the region of the bundle's bucket: EC2 registers a bundle in that region only.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from amistream.aws.ec2 import Ec2, permitted
from amistream.aws.session import Aws
from amistream.bundles.meter import Note
from amistream.bundles.parts import different_part_error, existing_names
from amistream.bundles.place import BucketPlace, Bundle, Place
from amistream.errors import AmistreamError, RefusedError, StoreError
from amistream.flow.retry import retry_policy, with_retries
from amistream.flow.undo import UNDO_STALLS, undo_despite_cancel
from amistream.ports.registry import JOB_TAG, Ami, Registration
from amistream.reports import Registered
from amistream.settings import Settings
from amistream.stages.register import RegistrationAttempt, default_name, find_ours

MAY_BECOME_AVAILABLE = frozenset({"register.timeout", "register.unknown"})
"""Codes of a wait that ended without a verdict: such an AMI stays."""


async def ec2_of(region: str, settings: Settings, aws: Aws) -> Ec2:
    return Ec2(await aws.client("ec2", region, settings.endpoint_url.rstrip("/")), region, settings.stall_timeout_s)


async def images_on(place: Place, manifest_name: str, ec2: Ec2, settings: Settings) -> tuple[list[Ami], list[Ami]]:
    """List the caller's AMIs that are registered on this manifest, and those that may be. Raises `StoreError`."""
    location = place.image_location(manifest_name)
    images = await with_retries(retry_policy(settings), f"look for images on {location}", lambda _: ec2.own_images())
    return [image for image in images if image.location == location], [each for each in images if each.is_on_any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent:
    """A registration that was checked. `image_id` is the AMI that exists already, or ''."""

    registration: Registration
    image_id: str


async def register_bundle(
    bundle: Bundle, options: Registration, settings: Settings, aws: Aws, note: Note
) -> Registered:
    """Register the bundle and wait for the AMI. Raises `AmistreamError`; then no AMI of ours is left.

    An existing AMI of this name and bundle is the result.
    """
    place = bundle.place
    if not isinstance(place, BucketPlace):
        raise RefusedError(
            "register.directory",
            f"cannot register {bundle.address}: EC2 reads a bundle from S3 only",
            hint=f"first: amistream upload {bundle.address} s3://BUCKET/PREFIX",
            field="manifest",
        )
    there = await existing_names(place.store, [part.filename for part in bundle.manifest.parts])
    missing = [part.filename for part in bundle.manifest.parts if part.filename not in there]
    if missing:
        raise different_part_error(bundle, f"{missing[0]} is missing ({len(missing)} parts in all)")
    ec2 = await ec2_of(place.region, settings, aws)
    intent = await check_registration(bundle, options, settings, ec2, note)
    return await carry_out(bundle, intent, settings, ec2, note)


async def check_registration(
    bundle: Bundle, options: Registration, settings: Settings, ec2: Ec2, note: Note, *, mark: str = ""
) -> Intent:
    """Check that EC2 would register the bundle, which may not exist yet. Raises `RefusedError` or `StoreError`.

    `mark` tags the AMI as that of a job; default: a random one.
    """
    registration, retry = registration_of(bundle, options, datetime.now(UTC), mark), retry_policy(settings)
    what = f"look for an AMI named {registration.name!r}"
    found = await with_retries(retry, what, lambda _: ec2.find(registration.name))
    if found is not None and found.location != registration.location:
        raise RefusedError(
            "ami_name.taken",
            f"cannot register the AMI name {registration.name!r}: {found.id} has it in {ec2.region}",
            hint=f"choose another --ami-name, or first: amistream deregister {found.id}",
            field="ami_name",
        )
    if found is None:
        others, _ = await images_on(bundle.place, bundle.manifest_name, ec2, settings)
        for other in others:
            note(f"{other.id} is registered on this bundle too")
        registration = await permitted(ec2, registration, retry)
    return Intent(registration=registration, image_id=found.id if found else "")


async def carry_out(bundle: Bundle, intent: Intent, settings: Settings, ec2: Ec2, note: Note) -> Registered:
    """Register what was checked and wait for it. Raises `AmistreamError`; then no AMI of ours is left."""
    return Registered(
        image_id=intent.image_id or await _register(ec2, intent.registration, settings, note),
        image_name=intent.registration.name,
        manifest=bundle.address,
        region=ec2.region,
    )


async def _register(ec2: Ec2, registration: Registration, settings: Settings, note: Note) -> str:
    attempt = RegistrationAttempt(registry=ec2, registration=registration, retry=retry_policy(settings))
    try:
        return await attempt.run(timeout_s=settings.register_timeout_s, poll_s=settings.register_poll_s)
    except BaseException as error:
        if getattr(error, "code", "") not in MAY_BECOME_AVAILABLE:

            def report(left: AmistreamError | None) -> None:
                if left is not None:
                    note(f"could not be removed: the AMI {registration.name!r}: {left.message}")

            stall_s = UNDO_STALLS * settings.stall_timeout_s
            await undo_despite_cancel(lambda _: _deregister_own(ec2, attempt, settings), report, stall_s=stall_s)
        raise


async def _deregister_own(ec2: Ec2, attempt: RegistrationAttempt, settings: Settings) -> None:
    own = attempt.own
    if own is None:
        found = await find_ours(ec2, attempt.registration, attempt.retry)
        if found is None:
            raise StoreError("register.late", "it may still appear: EC2 did not answer the request to register it")
        if not found.is_by_job_of(attempt.registration):
            raise StoreError(
                "register.unsure",
                f"{found.id} has this name, and somebody else may have registered it; if nobody has: "
                f"amistream deregister {found.id}",
            )
        own = found.id
    if own:
        await deregister_image(ec2, own, settings)


def registration_of(bundle: Bundle, options: Registration, now: datetime, mark: str = "") -> Registration:
    """Complete the options with the values of the manifest."""
    manifest = bundle.manifest
    kernel, ramdisk = options.kernel or manifest.kernel, options.ramdisk or manifest.ramdisk
    virtualization = options.virtualization or ("paravirtual" if kernel or manifest.kind != "machine" else "hvm")
    paravirtual = virtualization == "paravirtual"
    return replace(
        options,
        location=bundle.place.image_location(bundle.manifest_name),
        name=options.name or default_name(manifest.name, now, secrets.token_hex(3)),
        architecture=options.architecture or manifest.architecture,
        virtualization=virtualization,
        kernel=kernel if paravirtual else "",
        ramdisk=ramdisk if paravirtual else "",
        block_device_mappings=options.block_device_mappings or manifest.block_device_mappings,
        tags={**options.tags, JOB_TAG: mark or f"register-{secrets.token_hex(8)}"},
    )


async def find_image(ec2: Ec2, image_id: str, settings: Settings) -> Ami:
    """Describe the AMI. Raises `RefusedError` when there is none."""
    image = await with_retries(retry_policy(settings), f"look at {image_id}", lambda _: ec2.describe(image_id))
    if image is None:
        raise RefusedError(
            "image.missing",
            f"cannot find {image_id} in {ec2.region}: EC2 has no such AMI there",
            hint="check the id, and the region with --region",
            field="image",
        )
    return image


async def deregister_image(ec2: Ec2, image_id: str, settings: Settings) -> None:
    """Deregister the AMI, unless it is gone already. Raises `StoreError`."""
    await with_retries(retry_policy(settings), f"deregister {image_id}", lambda _: ec2.deregister(image_id))
