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

from cryptography import x509

from amistream.aws.session import Aws
from amistream.checks.bucket import BucketChecks
from amistream.checks.destination import Address, Destination
from amistream.checks.directory import DirectoryChecks
from amistream.checks.findings import Check, Finding, Status, for_place, refuse_if_failed, run_checks
from amistream.checks.host import HostChecks
from amistream.checks.identity import IdentityChecks
from amistream.checks.image import ImageChecks
from amistream.checks.source import SourceChecks
from amistream.errors import RefusedError, StoreError
from amistream.flow.cancel import finish_despite_cancel
from amistream.keys import UserIdentity
from amistream.location import DirectoryLocation
from amistream.plan import Bundling, Plan
from amistream.ports.store import Store
from amistream.ports.volume import Volume
from amistream.request import JobRequest
from amistream.settings import Settings
from amistream.stages.manifest import ImageFacts

Note = Callable[[str], None]
"""Takes a notice for the user."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """A job that passed. It owns the open volume: `close` it."""

    plan: Plan
    volume: Volume
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
    volume: Volume
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
    places: list[PlaceChecks] = []
    for address, number in zip(addresses, numbers, strict=True):
        places.append(PlaceChecks(address, source, bundling, number, first=places[0] if places else None, make=True))
    first = places[0]
    opened: list[Destination] = []
    try:
        state_dir = HostChecks(addresses[0].settings, source).state_dir()
        _tell(await run_checks([*source.checks(), *checks_of(places), state_dir]), note)
        for place in places:
            opened += [await place.destination()]
        ready = Ready(
            plan=source.plan(),
            volume=source.volume,
            destinations=tuple(opened),
            identity=first.identity.identity,
            ec2_certificates=tuple(place.identity.certificate for place in places),
            facts=first.image.facts,
        )
    except BaseException:
        for destination in opened:
            await finish_despite_cancel(destination.store.close())
        await source.close()
        raise
    return ready


class PlaceChecks:
    """The checks of one destination; the first one's have the user's keys and the image's facts with them."""

    def __init__(
        self,
        address: Address,
        source: SourceChecks,
        bundling: Bundling | None = None,
        number: int = 0,
        *,
        first: PlaceChecks | None,
        make: bool,
    ) -> None:
        """`number` is the place in `bundling`; `make`: a key pair is made for a user who has none."""
        self._address = address
        self.registers = address.request.registers
        self._first = first is None
        self._new = bundling is None
        self._checks = _location_checks(address, source)
        self.identity = IdentityChecks(address, self._checks, make=make)
        self.image: ImageChecks = ImageChecks(
            address,
            self._checks,
            facts=bundling.facts if bundling else None,
            settled=bundling.places[number] if bundling else None,
            like=first.image if first else None,
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


def _location_checks(address: Address, source: SourceChecks) -> BucketChecks | DirectoryChecks:
    location = address.location
    if isinstance(location, DirectoryLocation):
        return DirectoryChecks(address, location, source)
    return BucketChecks(address, location)


def checks_of(places: Sequence[PlaceChecks]) -> list[Check]:
    """The checks of all destinations, for one run."""
    checks = [check for number, place in enumerate(places) for check in for_place(place.checks(), number)]
    if len(places) > 1 and places[0].registers:
        checks.append(
            Check(
                name="ami_names",
                why="EC2 would refuse all but the first registration when everything is stored",
                look=lambda: _look_at_names(places),
                needs=tuple(check.name for check in checks if check.name.partition(" ")[0] == "region"),
            )
        )
    return checks


async def _look_at_names(places: Sequence[PlaceChecks]) -> str:
    """One AMI name serves one destination in each region."""
    names = Counter((place.image.region, place.image.name) for place in places)
    for (region, name), count in names.items():
        if count > 1:
            raise RefusedError(
                "ami_name.twice",
                f"cannot register the AMI name {name!r} {count} times: that many of the buckets are in {region}",
                hint="give one bucket in each region, or --no-register",
                field="destinations",
            )
    return "one in each region"


async def check_measurable(request: JobRequest, settings: Settings, aws: Aws, note: Note) -> Measurable:
    """Check volume and destination only: a trial needs neither keys nor an account. Raises as `check` does."""
    address = Address(request, settings, aws, secrets.token_hex(4))
    source = SourceChecks(address)
    try:
        destination = _location_checks(address, source)
        _tell(await run_checks([*source.checks(steady=False), *destination.checks(free=False)]), note)
        return Measurable(plan=source.plan(), volume=source.volume, store=await _opened(destination))
    except BaseException:
        await source.close()
        raise


def _tell(findings: Sequence[Finding], note: Note) -> None:
    """Tell the notices, and raise when any check failed."""
    for finding in findings:
        if finding.status is Status.NOTICE:
            note(finding.notice)
    refuse_if_failed(findings)


async def _opened(destination: BucketChecks | DirectoryChecks) -> Store:
    await destination.make_store()
    try:
        await destination.store.open()
    except StoreError as error:
        raise RefusedError(error.code, error.message, hint=error.hint, field=error.field) from error
    return destination.store
