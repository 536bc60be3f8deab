"""EC2 requests: register an AMI, find it, look at its state, list AMIs, deregister. Errors are translated.

RegisterImage has no client token, so it is not repeated here: `stages.register` does so safely.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any, TypeVar

from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError

from amistream.aws.translate import error_code, translate
from amistream.flow.cancel import await_answer
from amistream.ports.registry import Ami, Registration

T = TypeVar("T")

PAGE = 1000
"""AMIs in one answer. AWS limit."""


@dataclass(frozen=True, slots=True)
class Ec2:
    """EC2 in one region. Every method raises `StoreError`."""

    client: Any
    region: str
    timeout_s: float

    async def may_register(self, registration: Registration) -> None:
        """Ask EC2 whether it would permit the registration, without doing it."""
        what = f"register an AMI in {self.region}"
        try:
            made = await self._ask(self.client.register_image(**_arguments(registration), DryRun=True), what)
        except ClientError as error:
            if error_code(error) != "DryRunOperation":
                raise translate(error, what) from error
        else:
            # Some compatible endpoints ignore DryRun and register at once.
            await self.deregister(str(made["ImageId"]))

    async def register(self, registration: Registration) -> str:
        """Register once; returns the AMI's id. After a transient error the registration may have succeeded."""
        what = f"register {registration.name!r} in {self.region}"
        try:
            # A cancelled request that was sent may still be done: its answer is awaited, so that it can be undone.
            asked = await_answer(self.client.register_image(**_arguments(registration)), lambda: True)
            return str((await self._ask(asked, what))["ImageId"])
        except ClientError as error:
            raise translate(error, what) from error

    async def find(self, name: str) -> Ami | None:
        """The account's AMI of that name, if there is one."""
        filters = [{"Name": "name", "Values": [name]}]
        return await self._describe(f"look for an AMI named {name!r}", Owners=["self"], Filters=filters)

    async def describe(self, image_id: str) -> Ami | None:
        return await self._describe(f"look at {image_id}", ImageIds=[image_id])

    async def own_images(self) -> list[Ami]:
        """All AMIs of the caller's account that are registered from a bundle, including disabled ones.

        Not filtered by location on the server: that would miss other spellings, and compatible endpoints fail on it.
        """
        what = f"list the AMIs in {self.region}"
        found: list[Ami] = []
        page: dict[str, str] = {}
        while True:
            call = self.client.describe_images(Owners=["self"], IncludeDisabled=True, MaxResults=PAGE, **page)
            try:
                reply = await self._ask(call, what)
            except ClientError as error:
                raise translate(error, what) from error
            found += [_image(each) for each in reply["Images"] if each.get("RootDeviceType") != "ebs"]
            if not reply.get("NextToken"):
                return found
            page = {"NextToken": reply["NextToken"]}

    async def deregister(self, image_id: str) -> None:
        what = f"deregister {image_id}"
        try:
            await self._ask(self.client.deregister_image(ImageId=image_id), what)
        except ClientError as error:
            if not error_code(error).startswith("InvalidAMIID"):
                raise translate(error, what) from error

    async def _describe(self, what: str, **arguments: Any) -> Ami | None:
        try:
            reply = await self._ask(self.client.describe_images(**arguments), what)
        except ClientError as error:
            # An AMI that was just registered may not be visible everywhere yet.
            if error_code(error).startswith("InvalidAMIID"):
                return None
            raise translate(error, what) from error
        return next(map(_image, reply["Images"]), None)

    async def _ask(self, call: Awaitable[T], what: str) -> T:
        try:
            async with asyncio.timeout(self.timeout_s):
                return await call
        except (BotoCoreError, ResponseParserError, TimeoutError) as error:
            raise translate(error, what) from error


def _plain_location(location: str) -> str:
    """Bucket/key, however the location was written when the AMI was registered."""
    return re.sub(r"^(s3://|https?://[^/]*)?/*", "", location)


def _image(found: dict[str, Any]) -> Ami:
    return Ami(
        id=found["ImageId"],
        location=_plain_location(found.get("ImageLocation", "")),
        state=found.get("State", ""),
        reason=found.get("StateReason", {}).get("Message", ""),
    )


def _arguments(registration: Registration) -> dict[str, Any]:
    """The arguments of RegisterImage, without empty values."""
    arguments: dict[str, Any] = {
        "ImageLocation": registration.location,
        "Name": registration.name,
        "Description": registration.description,
        "Architecture": registration.architecture,
        "VirtualizationType": registration.virtualization,
        "KernelId": registration.kernel,
        "RamdiskId": registration.ramdisk,
        "SriovNetSupport": "simple" if registration.sriov else "",
        "EnaSupport": registration.ena or None,
        "BlockDeviceMappings": [
            {"VirtualName": virtual, "DeviceName": device if device.startswith("/dev/") else f"/dev/{device}"}
            for virtual, device in sorted(registration.block_device_mappings.items())
            if virtual.startswith("ephemeral")
        ],
        "TagSpecifications": [
            {
                "ResourceType": "image",
                "Tags": [{"Key": key, "Value": value} for key, value in sorted(registration.tags.items())],
            }
        ]
        if registration.tags
        else [],
    }
    return {name: value for name, value in arguments.items() if value}
