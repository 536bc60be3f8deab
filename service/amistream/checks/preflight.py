"""Turns a request and the settings into a `Ready` job before the first byte is read, or refuses it.

The other files here hold the checks; this file combines them. A refusal reports every failed check, the first
one as its cause; a risk becomes a notice. `doctor` runs the same checks.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cryptography import x509

from amistream.aws.session import Aws
from amistream.checks.ami import AmiChecks
from amistream.checks.boot.of_request import BootChecks
from amistream.checks.bundling import BundlingChecks
from amistream.checks.destination import Destination, OpenDestination
from amistream.checks.directory import DirectoryChecks
from amistream.checks.findings import Check, Finding, Status, for_destination, refuse_if_failed, run_checks
from amistream.checks.host import HostChecks
from amistream.checks.identity import IdentityChecks
from amistream.errors import RefusedError, StoreError
from amistream.flow.cancel import finish_despite_cancel
from amistream.keys import UserIdentity
from amistream.location import DirectoryLocation, Location, S3Location
from amistream.plan import Bundling, Plan
from amistream.ports.store import Identity, Store
from amistream.ports.volume import Volume
from amistream.request import BundleRequest
from amistream.settings import Settings
from amistream.stages.manifest import ImageFacts
from amistream.values import Extent

if TYPE_CHECKING:
    from amistream.checks.bucket import BucketChecks

Note = Callable[[str], None]
"""Receives a notice for the user."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedVolume:
    """A volume that passed its checks. It is open: `close` it."""

    plan: Plan
    volume: Volume
    used: tuple[Extent, ...]
    """The ranges of the volume to read, as they are now; a job keeps to the plan of its first run."""

    async def close(self) -> None:
        await asyncio.to_thread(self.volume.close)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready(CheckedVolume):
    """A job that passed its checks."""

    all_read: Callable[[], None]
    """Call it once all of the volume is read: its file systems may be frozen until then. Blocks."""
    destinations: tuple[OpenDestination, ...]
    identity: UserIdentity
    ec2_certificates: tuple[x509.Certificate, ...]
    """One for each destination."""
    facts: ImageFacts


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasurablePlace:
    """A destination, checked for a trial."""

    location: Location
    store: Store | None
    reason: str
    """The reason for which there is no store; '' if there is one."""
    region: str
    """'' for a directory."""
    limit_upload: int
    """Bytes per second; 0: no limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurable(CheckedVolume):
    """A volume and its destinations, checked for a trial that makes no bundle."""

    places: tuple[MeasurablePlace, ...]
    reading_memory: int
    """Bytes that reading the volume takes beside those of the plan."""

    async def close(self) -> None:
        try:
            for place in self.places:
                if place.store is not None:
                    await place.store.close()
        finally:
            await CheckedVolume.close(self)


async def check(
    addresses: Sequence[Destination],
    note: Note,
    *,
    bundling: Bundling | None = None,
    numbers: Sequence[int] = (0,),
) -> Ready:
    """Check everything, open the volume and the stores. Raises `RefusedError`, and leaves nothing behind then.

    `bundling` holds the decisions of an earlier run of the job, which stay; that run's parts are no obstacle. `numbers`
    are the places of the addresses in it.
    """
    addresses[0].says = _from_thread(note)
    source = BundlingChecks(addresses[0])
    places: list[DestinationChecks] = []
    for address, number in zip(addresses, numbers, strict=True):
        places.append(DestinationChecks(address, source, bundling, number, earlier=tuple(places), create_keys=True))
    opened: list[OpenDestination] = []
    try:
        boot = BootChecks(addresses[0], source).for_job()
        state_dir = HostChecks(addresses[0].settings, source).state_dir()
        report(await run_checks([*source.checks(), *boot, *checks_of(places), state_dir]), note)
        for place in places:
            opened += [await place.destination()]
        # Last of all: writers wait from now on.
        report(await source.freeze(), note)
        ready = Ready(
            plan=source.plan(),
            volume=source.volume,
            used=source.used,
            all_read=source.all_read,
            destinations=tuple(opened),
            identity=places[0].identity.identity,
            ec2_certificates=tuple(place.identity.certificate for place in places),
            facts=places[0].ami.facts,
        )
    except BaseException:
        for destination in opened:
            await finish_despite_cancel(destination.store.close())
        await source.close()
        raise
    return ready


def _from_thread(note: Note) -> Note:
    """Take notices from a thread: nothing else shows that a job that is checked for minutes gets on."""
    loop = asyncio.get_running_loop()

    def take(text: str) -> None:
        loop.call_soon_threadsafe(note, text)

    return take


class DestinationChecks:
    """The checks of one destination; those of the first one include the user's keys and the image's facts."""

    def __init__(
        self,
        address: Destination,
        source: BundlingChecks,
        bundling: Bundling | None = None,
        number: int = 0,
        *,
        earlier: Sequence[DestinationChecks],
        create_keys: bool,
    ) -> None:
        """`number` is the place in `bundling`; `create_keys`: create a key pair if the user has none."""
        self._address = address
        self.registers = address.request.registers
        self._first = not earlier
        self._settled = bundling.places[number] if bundling else None
        self._checks = _location_checks(address, source)
        self.identity = IdentityChecks(address, self._checks, create_keys=create_keys)
        self.ami: AmiChecks = AmiChecks(
            address,
            self._checks,
            facts=bundling.facts if bundling else None,
            settled=self._settled,
            earlier=[each.ami for each in earlier],
        )

    def checks(self) -> list[Check]:
        identity = self.identity.checks() if self._first else [self.identity.ec2_check()]
        # A named job has looked, and claimed the place, before.
        must_be_empty = self._settled is None and not self._address.name
        return [*identity, *self._checks.checks(must_be_empty=must_be_empty), *self.ami.checks()]

    async def destination(self) -> OpenDestination:
        registration, region = self.ami.registration, self._checks.region
        return OpenDestination(
            store=await _opened(self._address, region, made_place=self._settled.made_place if self._settled else None),
            retry=self._address.retry,
            region=region,
            ec2=await self.ami.ec2() if registration else None,
            registration=registration,
        )


def _location_checks(address: Destination, source: BundlingChecks) -> BucketChecks | DirectoryChecks:
    match address.location:
        case DirectoryLocation() as location:
            return DirectoryChecks(address, location, source)
        case S3Location() as location:
            from amistream.checks.bucket import BucketChecks  # noqa: PLC0415 - for a bucket only

            return BucketChecks(address, location)


def checks_of(places: Sequence[DestinationChecks]) -> list[Check]:
    """Combine the checks of all destinations for one run."""
    checks = [check for number, place in enumerate(places) for check in for_destination(place.checks(), number)]
    if len(places) > 1 and places[0].registers:
        why = "EC2 would refuse all but the first registration after everything was stored"
        regions = tuple(check.name for check in checks if check.name.partition(" ")[0] == "region")
        # A default name depends on the regions before.
        checks = [replace(check, after=regions) if check.name.startswith("ami_name") else check for check in checks]
        checks.append(Check("ami_names", why, lambda: _check_ami_names(places), regions))
    return checks


def _check_ami_names(places: Sequence[DestinationChecks]) -> str:
    """Refuse one AMI name for two destinations in one region."""
    names = Counter((place.ami.region, place.ami.name) for place in places)
    for (region, name), count in names.items():
        if count > 1:
            raise RefusedError(
                "ami_name.twice",
                f"cannot register the AMI name {name!r} {count} times: that many of the buckets are in {region}",
                hint="give one bucket in each region, or --no-register",
                field="destinations",
            )
    return "one in each region"


async def check_measurable(
    request: BundleRequest, settings: Settings, aws: Aws, note: Note, *, needs_store: bool = True
) -> Measurable:
    """Check volume and destinations only: a trial needs neither keys nor an account. Raises as `check` does.

    Without `needs_store` a destination that cannot be used is no reason to raise.
    """
    token = secrets.token_hex(4)
    addresses = [Destination(request, settings, aws, token, number) for number in range(len(request.destinations))]
    source = BundlingChecks(addresses[0])
    opened: list[MeasurablePlace] = []
    try:
        asked = [_location_checks(address, source) for address in addresses]
        of_source = source.checks(check_mounts=False)
        of_places = [for_destination(place.checks(must_be_empty=False), number) for number, place in enumerate(asked)]
        findings = await run_checks([*of_source, *(check for checks in of_places for check in checks)])
        known = {check.name for check in of_source}
        report(findings if needs_store else [each for each in findings if each.name in known], note)
        for address, place, checks in zip(addresses, asked, of_places, strict=True):
            own = {check.name for check in checks}
            failed = [each for each in findings if each.name in own and each.status is Status.FAILED]
            opened.append(
                MeasurablePlace(
                    location=address.location,
                    store=None if failed else await _opened(address, place.region),
                    reason=failed[0].found if failed else "",
                    region=place.region,
                    limit_upload=int(address.limit_upload or 0),
                )
            )
        return Measurable(
            plan=source.plan(),
            volume=source.volume,
            used=source.used,
            places=tuple(opened),
            reading_memory=source.reading_memory,
        )
    except BaseException:
        for each in opened:
            if each.store is not None:
                await finish_despite_cancel(each.store.close())
        await source.close()
        raise


def report(findings: Sequence[Finding], note: Note) -> None:
    """Report the notices, and raise if any check failed."""
    for finding in findings:
        if finding.status is Status.NOTICE:
            note(finding.notice)
    refuse_if_failed(findings)


async def _opened(address: Destination, region: str, *, made_place: Identity | None = None) -> Store:
    store = await address.store(region)
    try:
        await store.open(made_place=made_place)
    except StoreError as error:
        raise RefusedError(**error.as_dict()) from error
    return store
