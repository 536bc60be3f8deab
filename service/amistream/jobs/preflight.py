"""Everything that can be known before the first byte is read: a request and the settings become a `Ready` job, or
are refused.

The checks stand in the files `checks_*`, here they are put together. What is refused is refused for the first failure,
with every other one behind it; things that only may go wrong become notices. `doctor` runs the same checks.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from cryptography import x509

from amistream.aws.session import Aws
from amistream.errors import RefusedError, StoreError
from amistream.jobs.checks_bucket import BucketChecks
from amistream.jobs.checks_directory import DirectoryChecks
from amistream.jobs.checks_host import HostChecks
from amistream.jobs.checks_identity import IdentityChecks
from amistream.jobs.checks_image import ImageChecks
from amistream.jobs.checks_source import SourceChecks
from amistream.jobs.destination import Address, Destination
from amistream.jobs.findings import Check, Status, refuse_if_failed, run_checks
from amistream.jobs.journal import Bundling
from amistream.jobs.request import JobRequest
from amistream.keys import UserIdentity
from amistream.pipeline import Plan
from amistream.settings import Settings
from amistream.source.volume import FileVolume
from amistream.stages.manifest import ImageFacts
from amistream.stores.port import Store

Note = Callable[[str], None]
"""Takes a notice for the user."""

DestinationChecks: TypeAlias = BucketChecks | DirectoryChecks


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """A job that passed. It owns the open volume: `close` it."""

    plan: Plan
    volume: FileVolume
    destination: Destination
    identity: UserIdentity
    ec2_certificate: x509.Certificate
    facts: ImageFacts

    async def close(self) -> None:
        await asyncio.to_thread(self.volume.close)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurable:
    """A volume and a place to send it to, checked as far as a trial needs that makes no bundle. Close it as `Ready`."""

    plan: Plan
    volume: FileVolume
    store: Store

    async def close(self) -> None:
        await asyncio.to_thread(self.volume.close)


async def check(address: Address, note: Note, *, bundling: Bundling | None = None) -> Ready:
    """Check everything, open the volume and the store. Raises `RefusedError`; nothing is left behind then.

    `bundling` is what an earlier pass of the same job settled: it stays, and what that pass stored is not in the way.
    """
    source = SourceChecks(address)
    try:
        destination = destination_checks(address, source)
        identity = IdentityChecks(address, destination, make=True)
        image = ImageChecks(address, destination, bundling)
        await _run(
            [
                *source.checks(),
                *identity.checks(),
                *destination.checks(free=bundling is None),
                *image.checks(),
                HostChecks(address.settings, source).state_dir(),
            ],
            note,
        )
        registration = image.registration
        ready = Ready(
            plan=source.plan(),
            volume=source.volume,
            destination=Destination(
                store=await _opened(destination),
                retry=address.retry,
                region=destination.region,
                ec2=await image.ec2() if registration else None,
                registration=registration,
            ),
            identity=identity.identity,
            ec2_certificate=identity.certificate,
            facts=image.facts,
        )
    except BaseException:
        await source.close()
        raise
    return ready


async def check_measurable(request: JobRequest, settings: Settings, aws: Aws, note: Note) -> Measurable:
    """Check volume and destination only: a trial needs neither keys nor an account. Raises as `check` does."""
    address = Address(request, settings, aws, secrets.token_hex(4))
    source = SourceChecks(address)
    try:
        destination = destination_checks(address, source)
        await _run([*source.checks(steady=False), *destination.checks(free=False)], note)
        return Measurable(plan=source.plan(), volume=source.volume, store=await _opened(destination))
    except BaseException:
        await source.close()
        raise


def destination_checks(address: Address, source: SourceChecks) -> DestinationChecks:
    return DirectoryChecks(address, source) if address.request.directory else BucketChecks(address)


async def _run(checks: Sequence[Check], note: Note) -> None:
    """Run the checks, tell the notices, and raise when any failed."""
    findings = await run_checks(checks)
    for finding in findings:
        if finding.status is Status.NOTICE:
            note(finding.notice)
    refuse_if_failed(findings)


async def _opened(destination: DestinationChecks) -> Store:
    await destination.make_store()
    try:
        await destination.store.open()
    except StoreError as error:
        raise RefusedError(error.code, error.message, hint=error.hint, field=error.field) from error
    return destination.store
