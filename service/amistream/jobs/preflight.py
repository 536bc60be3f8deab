"""Everything that can be known before the first byte is read: a request and the settings become a `Ready` job, or
are refused.

The checks stand in the files `checks_*`, here they are put together. What is refused is refused for the first failure,
with every other one behind it; things that only may go wrong become notices. `doctor` runs the same checks.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
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
from amistream.jobs.findings import Check, Finding, Status, refuse_if_failed, run_checks
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
    destinations: tuple[Destination, ...]
    identity: UserIdentity
    ec2_certificates: tuple[x509.Certificate, ...]
    """One for each destination."""
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


async def check(
    addresses: Sequence[Address], note: Note, *, bundling: Bundling | None = None, numbers: Sequence[int] = (0,)
) -> Ready:
    """Check everything, open the volume and the stores. Raises `RefusedError`; nothing is left behind then.

    `bundling` is what an earlier pass of the same job settled: it stays, and what that pass stored is not in the way;
    `numbers` are the places of the addresses in it.
    """
    source = SourceChecks(addresses[0])
    places = [
        _Place(address, source, bundling, number, first=address is addresses[0])
        for address, number in zip(addresses, numbers, strict=True)
    ]
    first = places[0]
    try:
        state_dir = HostChecks(addresses[0].settings, source).state_dir()
        findings = await run_checks([*source.checks(), *first.checks(), state_dir])
        for place in places[1:]:
            findings += await run_checks(place.checks())
        _tell(findings, note)
        _refuse_same_image(places)
        ready = Ready(
            plan=source.plan(),
            volume=source.volume,
            destinations=tuple([await place.destination() for place in places]),
            identity=first.identity.identity,
            ec2_certificates=tuple(place.identity.certificate for place in places),
            facts=first.image.facts,
        )
    except BaseException:
        await source.close()
        raise
    return ready


class _Place:
    """The checks of one destination; the first one's have the user's keys with them."""

    def __init__(
        self,
        address: Address,
        source: SourceChecks,
        bundling: Bundling | None,
        number: int,
        *,
        first: bool,
    ) -> None:
        self._address = address
        self._first = first
        self._new = bundling is None
        self._checks = destination_checks(address, source)
        self.identity = IdentityChecks(address, self._checks, make=True)
        self.image = (
            ImageChecks(address, self._checks)
            if bundling is None
            else ImageChecks(address, self._checks, bundling.facts, bundling.places[number])
        )

    def checks(self) -> list[Check]:
        identity = self.identity.checks() if self._first else [self.identity.ec2_check()]
        return [*identity, *self._checks.checks(free=self._new), *self.image.checks()]

    async def destination(self) -> Destination:
        registration = self.image.registration
        return Destination(
            store=await _opened(self._checks),
            retry=self._address.retry,
            region=self._checks.region,
            ec2=await self.image.ec2() if registration else None,
            registration=registration,
        )


def _refuse_same_image(places: Sequence[_Place]) -> None:
    """One AMI name serves one destination in each region."""
    names = Counter((place.image.region, place.image.registration.name) for place in places if place.image.registration)
    for (region, name), count in names.items():
        if count > 1:
            raise RefusedError(
                "ami_name.twice",
                f"cannot register the AMI name {name!r} {count} times: that many of the buckets are in {region}",
                hint="give one bucket in each region, or --no-register",
                field="destinations",
            )


async def check_measurable(request: JobRequest, settings: Settings, aws: Aws, note: Note) -> Measurable:
    """Check volume and destination only: a trial needs neither keys nor an account. Raises as `check` does."""
    address = Address(request, settings, aws, secrets.token_hex(4))
    source = SourceChecks(address)
    try:
        destination = destination_checks(address, source)
        _tell(await run_checks([*source.checks(steady=False), *destination.checks(free=False)]), note)
        return Measurable(plan=source.plan(), volume=source.volume, store=await _opened(destination))
    except BaseException:
        await source.close()
        raise


def destination_checks(address: Address, source: SourceChecks) -> DestinationChecks:
    return DirectoryChecks(address, source) if address.request.directory else BucketChecks(address)


def _tell(findings: Sequence[Finding], note: Note) -> None:
    """Tell the notices, and raise when any check failed."""
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
