"""Checks the facts for the manifest and for EC2: account, device mapping, AMI name, and the right to register it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from amistream.aws import metadata
from amistream.aws.regions import on_aws
from amistream.checks.destination import Destination
from amistream.checks.findings import Check
from amistream.checks.identity import KnowsRegion
from amistream.errors import RefusedError, StoreError
from amistream.flow.retry import with_retries
from amistream.location import DirectoryLocation
from amistream.plan import BundlingPlace
from amistream.ports.registry import JOB_TAG, Registration
from amistream.request import AMI_NAME_PATTERN, DEVICE_PATTERN, PATTERN_WORDS
from amistream.stages.manifest import ImageFacts
from amistream.values import manifest_name

if TYPE_CHECKING:
    from amistream.aws.ec2 import Ec2


class AmiChecks:
    """`facts` and `registration` are known once the checks have passed; those of an earlier run stay as they are."""

    def __init__(
        self,
        address: Destination,
        place: KnowsRegion,
        *,
        facts: ImageFacts | None = None,
        settled: BundlingPlace | None = None,
        earlier: Sequence[AmiChecks] = (),
    ) -> None:
        """`earlier` are the checks of the destinations before this one: all have the facts of the first."""
        self._address = address
        self._request = address.request
        self._place = place
        self._facts = facts
        self._earlier = earlier
        self._settled = settled
        self._inherited = metadata.Inherited()
        self._account = self._request.account or address.settings.account
        self._ec2: Ec2 | None = None
        self._registered = False
        self._may_tag = True
        before = settled.registration if settled else None
        named = before.name if before else self._request.ami_name
        self._has_default_name = not named
        self.name = named or address.default_image_name(datetime.now(UTC))

    def checks(self) -> list[Check]:
        checks = self._checks_of_facts() if self._facts is None and not self._earlier else []
        if self._request.registers:
            why = "EC2 would refuse the registration after everything was stored"
            checks += [
                Check("ami_name", why, self._check_name, ("region",)),
                Check(
                    "registration",
                    "the bundle would be stored without an AMI",
                    self._try_registration,
                    ("ami_name", "devices"),
                ),
            ]
        return checks

    @property
    def facts(self) -> ImageFacts:
        if self._facts is not None:
            return self._facts
        if self._earlier:
            return self._earlier[0].facts
        request, inherited = self._request, self._inherited
        return ImageFacts(
            prefix=self._address.prefix,
            user=self._account,
            architecture=request.architecture or self._address.settings.architecture,
            kernel=request.kernel or inherited.kernel,
            ramdisk=request.ramdisk or inherited.ramdisk,
            product_codes=tuple(dict.fromkeys((*request.product_codes, *inherited.product_codes))),
            ancestors=tuple(dict.fromkeys(request.ancestors or inherited.ancestors)),
            block_device_mappings=self._mappings,
        )

    @property
    def _manifest_location(self) -> str | None:
        """BUCKET/KEY of the manifest, if an AMI is to be registered on it."""
        location = self._address.location
        if not self._request.registers or isinstance(location, DirectoryLocation):
            return None
        return location.plain(manifest_name(self._address.prefix))

    @property
    def registration(self) -> Registration | None:
        request, facts, location = self._request, self.facts, self._manifest_location
        if location is None:
            return None
        if self._settled is not None and self._settled.registration is not None:
            return self._settled.registration if self._may_tag else self._settled.registration.unmarked
        paravirtual = request.virtualization == "paravirtual"
        registration = Registration(
            location=location,
            name=self.name,
            architecture=facts.architecture,
            virtualization=request.virtualization,
            description=request.description or "",
            kernel=facts.kernel if paravirtual else "",
            ramdisk=facts.ramdisk if paravirtual else "",
            sriov=request.sriov,
            ena=request.ena,
            block_device_mappings=facts.block_device_mappings,
            tags={**request.tags, JOB_TAG: self._address.tag},
        )
        return registration if self._may_tag else registration.unmarked

    @property
    def region(self) -> str:
        return self._place.region

    async def ec2(self) -> Ec2:
        if self._ec2 is None:
            self._ec2 = await self._address.ec2(self._place.region)
        return self._ec2

    def _checks_of_facts(self) -> list[Check]:
        why = "mapping, kernel and product codes of this instance would be missing from the bundle"
        inherits = Check("metadata", why, self._inherit)
        why = "the manifest names the account of the bundle's owner"
        needs = () if self._account else ("credentials", "bucket")
        return [
            *([inherits] if self._request.inherit else []),
            Check("account", why, self._find_account, needs, ("region",)),
            Check("devices", "EC2 would refuse the manifest (InvalidManifest)", self._check_devices, ("metadata",)),
        ]

    @property
    def _mappings(self) -> dict[str, str]:
        return {**self._inherited.block_device_mappings, **self._request.block_device_mappings}

    async def _inherit(self) -> str:
        self._inherited = found = await metadata.inherited()
        count = len(found.block_device_mappings)
        return f"{count} device{'s' * (count != 1)}, ancestors {', '.join(found.ancestors) or 'none'}"

    async def _find_account(self) -> str:
        address = self._address
        if self._account:
            digits = self._account.replace("-", "")
            if re.fullmatch("[0-9]{12}", digits):
                self._account = digits
            elif on_aws(await address.s3_endpoint(self._place.region)):
                raise RefusedError(
                    "account.invalid",
                    f"cannot write the manifest: {self._account!r} is not an AWS account id, which has 12 digits",
                    hint="give --account 123456789012, or correct what sets it: the setting account, AWS_ACCOUNT_ID, "
                    "EC2_ACCOUNT_ID or EC2_USER_ID; that of another cloud may be any, with endpoint_url set to its S3",
                    field="account",
                )
            return f"{self._account}, as given"
        in_directory = isinstance(address.location, DirectoryLocation)
        if in_directory and not address.endpoint_url and not await self._has_credentials():
            raise RefusedError(
                "account.missing",
                "cannot write the manifest: the AWS account id is not known, and there are no credentials for STS",
                hint="give --account 123456789012, or set AWS_ACCOUNT_ID",
                field="account",
            )
        self._account = await with_retries(
            address.retry,
            "look up the account id with STS",
            lambda _: address.aws.account_id(self._place.region, address.endpoint_url),
        )
        return f"{self._account}, from STS"

    async def _has_credentials(self) -> bool:
        try:
            return await self._address.aws.has_credentials()
        except StoreError as error:
            raise error.reworded(hint=f"give --account 123456789012; or {error.hint}") from error

    async def _check_devices(self) -> str:
        mappings = self._mappings
        for virtual, device in sorted(mappings.items()):
            if not DEVICE_PATTERN.fullmatch(device):
                raise RefusedError(
                    "mapping.device",
                    f"cannot map {virtual} to {device}, as on this instance: EC2 accepts no such name in a manifest",
                    hint=f"use EC2's name for it (xvdb is sdb): -B {virtual}=sdb",
                    field="block_device_mappings",
                )
        own = [device.removeprefix("/dev/") for virtual, device in mappings.items() if virtual.startswith("ephemeral")]
        twice = sorted({device for device in own if own.count(device) > 1})
        if twice:
            raise RefusedError(
                "mapping.twice",
                f"cannot map two volumes to one device: {', '.join(twice)}",
                hint="give each ephemeral volume a device of its own: -B ephemeral0=sdb,ephemeral1=sdc",
                field="block_device_mappings",
            )
        return ", ".join(f"{virtual}={device}" for virtual, device in sorted(mappings.items())) or "none"

    async def _check_name(self) -> str:
        twins = sum(each.region == self.region for each in self._earlier)
        if self._has_default_name and twins:
            self.name += f"-{twins + 1}"
        if not re.fullmatch(AMI_NAME_PATTERN, self.name):
            raise RefusedError(
                "ami_name.invalid",
                f"cannot register the AMI name {self.name!r}: it is not {PATTERN_WORDS['ami_name']}",
                hint="choose another --ami-name",
                field="ami_name",
            )
        ec2 = await self.ec2()
        taken = await with_retries(
            self._address.retry, f"look for an AMI named {self.name!r}", lambda _: ec2.find(self.name)
        )
        self._registered = taken is not None
        # Without an earlier run, even an AMI on this very location is the remains of a deleted bundle.
        if taken is not None and (self._settled is None or taken.location != self._manifest_location):
            raise RefusedError(
                "ami_name.taken",
                f"cannot register the AMI name {self.name!r}: {taken.id} has it in {ec2.region}",
                hint=f"choose another --ami-name, or first: aws ec2 deregister-image --image-id {taken.id}",
                field="ami_name",
            )
        return f"{self.name!r} is free" if taken is None else f"{self.name!r} is {taken.id}, of this very bundle"

    async def _try_registration(self) -> str:
        registration = self.registration
        if self._registered or registration is None:
            return "registered already"
        from amistream.aws.ec2 import permitted  # noqa: PLC0415 - as the SDK, for the first request

        ec2 = await self.ec2()
        self._may_tag = JOB_TAG in (await permitted(ec2, registration, self._address.retry)).tags
        return f"EC2 would accept it in {ec2.region} (dry run)"
