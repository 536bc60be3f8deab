"""Runs a job's checks on this machine and, if given, on a volume and destinations, without starting a job.

Changes nothing, except that an empty probe object is put and deleted, and that a script of the request runs.
"""

from __future__ import annotations

import secrets
from datetime import UTC, datetime

from amistream.aws.credentials import find_credentials
from amistream.aws.session import Aws
from amistream.checks.boot.of_request import BootChecks
from amistream.checks.bucket import credentials_observation
from amistream.checks.bundling import BundlingChecks
from amistream.checks.conversion import conversion_checks
from amistream.checks.conversion_context import ConversionContext
from amistream.checks.destination import BundleContext, Destination
from amistream.checks.findings import Check, Finding, Observation, Status, notice, run_checks
from amistream.checks.host import HostChecks, check_clock
from amistream.checks.identity import IdentityChecks
from amistream.checks.preflight import DestinationChecks, checks_of
from amistream.request import CheckRequest
from amistream.request.convert import ConvertCheckRequest
from amistream.roots import Roots
from amistream.settings import Settings


async def examine(
    request: CheckRequest | ConvertCheckRequest, settings: Settings, aws: Aws, roots: Roots | None = None
) -> list[Finding]:
    """Run every check; the findings come in a fixed order. `roots` are those of a confined job."""
    token = secrets.token_hex(4)
    if isinstance(request, ConvertCheckRequest):
        return await _examine_conversion(ConversionContext(request, settings, aws, token, roots=roots))
    context = BundleContext(request, settings, aws, roots=roots)
    volume = BundlingChecks(context)
    places: list[DestinationChecks] = []
    for number in range(len(request.destinations)):
        address = Destination(request, settings, aws, token, number, roots=roots)
        places.append(DestinationChecks(address, volume, earlier=tuple(places), create_keys=False))
    checks = [
        *HostChecks(settings, volume).checks(),
        *(
            [*volume.checks(), BootChecks(context, volume).for_doctor()]
            if request.source
            else [_not_given("source", "SOURCE"), volume.memory_check()]
        ),
        *(checks_of(places) if places else NoDestination(context).checks()),
    ]
    try:
        return await run_checks(checks)
    finally:
        await volume.close()


async def _examine_conversion(context: ConversionContext) -> list[Finding]:
    checks = await conversion_checks(context)
    of_host = HostChecks(context.settings, checks.snapshot).checks(with_state_dir=False)
    if context.request.source is None:
        return await run_checks([*of_host, _not_given("source", "SOURCE"), *checks.snapshot.checks()])
    try:
        return await run_checks([*of_host, *checks.checks(is_job=False)])
    finally:
        await checks.close()


class NoDestination:
    """The checks of a destination that make sense without one."""

    def __init__(self, context: BundleContext) -> None:
        self._context = context
        self.region = ""

    def checks(self) -> list[Check]:
        return [
            Check("clock", "", check_clock),
            *IdentityChecks(self._context, self, create_keys=False).checks(),
            Check("credentials", "", self._check_credentials),
            Check("region", "EC2's certificate depends on the region", self._choose_region),
            _not_given("destination", "--to"),
        ]

    async def is_elsewhere(self) -> bool:
        """True if the request or the settings name an endpoint."""
        return bool(self._context.request.endpoint_url or self._context.settings.endpoint_url)

    async def _check_credentials(self) -> Observation:
        facts = await find_credentials(self._context.aws, self._context.request.region or "")
        if facts is None:
            return notice(
                "no AWS credentials were found",
                why="a bundle cannot go to S3, only into a directory",
                fix="use an instance role, a profile (AWS_PROFILE), or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
            )
        return credentials_observation(facts, datetime.now(UTC))

    async def _choose_region(self) -> Observation:
        self.region = self._context.request.region or await self._context.aws.default_region()
        if self.region:
            return Observation(self.region)
        return Observation("not known without --to or --region", Status.SKIPPED)


def _not_given(name: str, option: str) -> Check:
    return Check(name, "", lambda: Observation(f"{option} was not given", Status.SKIPPED))
