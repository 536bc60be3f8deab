"""EC2 requests: register an AMI, find it, look at its state, list AMIs, deregister; count snapshots.

Errors are translated. RegisterImage has no client token, so it is not repeated here: `stages.register` does so safely.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import ClientError

from amistream.aws.translate import IncompleteReplyError, asking, error_code, wanted
from amistream.errors import StoreError
from amistream.flow.cancel import await_answer, finish_despite_cancel
from amistream.flow.retry import RetryPolicy, with_retries
from amistream.ports.registry import BUNDLE_TAG, Ami, Registration

PAGE = 1000
"""AMIs in one answer. AWS limit."""
_NO_SNAPSHOT = frozenset({"InvalidBlockDeviceMapping", "MissingParameter"})
"""Codes of RegisterImage for a root device without a snapshot."""


@dataclass(frozen=True, slots=True)
class Ec2:
    """EC2 in one region. Every method raises `StoreError`."""

    client: Any
    region: str
    timeout_s: float

    async def may_register(self, registration: Registration) -> None:
        """Ask EC2 whether it would permit the registration, without doing it. The snapshot need not exist yet."""
        async with self._asking(f"register an AMI in {self.region}"):
            try:
                made = wanted(await self.client.register_image(**_arguments(registration), DryRun=True), "ImageId")
            except ClientError as error:
                code = error_code(error)
                if code == "DryRunOperation" or (
                    registration.is_on_snapshot and not registration.snapshot_id and code in _NO_SNAPSHOT
                ):
                    return
                raise
        # Some compatible endpoints ignore DryRun and register at once.
        await self.deregister(str(made))

    async def register(self, registration: Registration) -> str:
        """Register once; returns the AMI's id. After a transient error the registration may have succeeded."""
        async with self._asking(f"register {registration.name!r} in {self.region}"):
            # A cancelled request that was sent may still be done: its answer is awaited, so that it can be undone.
            reply = await await_answer(self.client.register_image(**_arguments(registration)), lambda: True)
            return str(wanted(reply, "ImageId"))

    async def find(self, name: str) -> Ami | None:
        """The account's AMI of that name, if there is one."""
        filters = [{"Name": "name", "Values": [name]}]
        return await self._describe(f"look for an AMI named {name!r}", Owners=["self"], Filters=filters)

    async def tagged(self, tag: str, value: str) -> list[Ami]:
        """The account's AMIs with this tag. New ones become visible with a delay."""
        filters = [{"Name": f"tag:{tag}", "Values": [value]}]
        async with self._asking(f"look for AMIs with the tag {tag}={value} in {self.region}"):
            reply = await self.client.describe_images(Owners=["self"], Filters=filters)
            return [_image(each) for each in wanted(reply, "Images")]

    async def describe(self, image_id: str) -> Ami | None:
        return await self._describe(f"look at {image_id}", ImageIds=[image_id])

    async def own_images(self) -> list[Ami]:
        """All AMIs of the caller's account that are registered from a bundle, including disabled ones.

        Not filtered by location on the server: that would miss other spellings, and compatible endpoints fail on it.
        """
        return [_image(each) for each in await self._own() if each.get("RootDeviceType") != "ebs"]

    async def converted_images(self) -> list[Ami]:
        """All AMIs of the caller's account that were made of a bundle and are on EBS, including disabled ones."""
        images = [_image(each) for each in await self._own() if each.get("RootDeviceType") == "ebs"]
        return [image for image in images if image.tags.get(BUNDLE_TAG)]

    async def encrypts_by_default(self) -> bool:
        """New snapshots in this account and region are encrypted, whatever a request asks for."""
        async with self._asking(f"look up the encryption by default in {self.region}"):
            reply = await self.client.get_ebs_encryption_by_default()
            return bool(wanted(reply, "EbsEncryptionByDefault"))

    async def pending_snapshots(self) -> int:
        """The caller's pending snapshots, counted up to a page of them."""
        filters = [{"Name": "status", "Values": ["pending"]}]
        async with self._asking(f"count the pending snapshots in {self.region}"):
            reply = await self.client.describe_snapshots(OwnerIds=["self"], Filters=filters, MaxResults=PAGE)
            return len(wanted(reply, "Snapshots"))

    async def _own(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        page: dict[str, str] = {}
        while True:
            async with self._asking(f"list the AMIs in {self.region}"):
                reply = await self.client.describe_images(
                    Owners=["self"], IncludeDisabled=True, MaxResults=PAGE, **page
                )
                found += wanted(reply, "Images")
                token = reply.get("NextToken")
                if token and token == page.get("NextToken"):
                    raise IncompleteReplyError("names itself as the next page")
            if not token:
                return found
            page = {"NextToken": token}

    async def deregister(self, image_id: str) -> None:
        async with self._asking(f"deregister {image_id}"):
            try:
                wanted(await self.client.deregister_image(ImageId=image_id), "Return")
            except ClientError as error:
                if not error_code(error).startswith("InvalidAMIID"):
                    raise

    async def _describe(self, what: str, **arguments: Any) -> Ami | None:
        async with self._asking(what):
            try:
                reply = await self.client.describe_images(**arguments)
            except ClientError as error:
                # An AMI that was just registered may not be visible everywhere yet.
                if not error_code(error).startswith("InvalidAMIID"):
                    raise
                return None
            return next(map(_image, wanted(reply, "Images")), None)

    def _asking(self, what: str) -> AbstractAsyncContextManager[None]:
        return asking(what, self.timeout_s)


async def permitted(ec2: Ec2, registration: Registration, retry: RetryPolicy) -> Registration:
    """The registration as EC2 permits it by a dry run, without its mark if need be. Raises `StoreError`.

    Users without `ec2:CreateTags` and endpoints without tags need that: a cancel then keeps an AMI of whose
    registration no answer came.
    """

    async def ask(registration: Registration) -> Registration:
        what = f"register an AMI in {ec2.region}"
        await with_retries(retry, what, lambda _: finish_despite_cancel(ec2.may_register(registration)))
        return registration

    try:
        return await ask(registration)
    except StoreError as error:
        if registration == registration.unmarked or getattr(error.__cause__, "transient", False):
            raise
    return await ask(registration.unmarked)


def _image(found: dict[str, Any]) -> Ami:
    snapshots = {
        each.get("DeviceName"): each.get("Ebs", {}).get("SnapshotId", "")
        for each in found.get("BlockDeviceMappings", ())
    }
    return Ami(
        id=wanted(found, "ImageId"),
        # Bucket/key, however the location was written when the AMI was registered.
        location=re.sub(r"^(s3://|https?://[^/]*)?/*", "", found.get("ImageLocation", "")),
        state=found.get("State", ""),
        reason=found.get("StateReason", {}).get("Message", ""),
        tags={tag.get("Key", ""): tag.get("Value", "") for tag in found.get("Tags", ())},
        snapshot_id=snapshots.get(found.get("RootDeviceName")) or "",
        name=found.get("Name", ""),
        description=found.get("Description", ""),
        sriov=found.get("SriovNetSupport") == "simple",
        ena=found.get("EnaSupport") is True,
    )


def _root_mapping(registration: Registration) -> Iterator[dict[str, Any]]:
    """The root device on its snapshot, which must not say whether it is encrypted: the snapshot has that."""
    if registration.is_on_snapshot:
        ebs = {
            "SnapshotId": registration.snapshot_id,
            "VolumeSize": registration.volume_size_gib,
            "VolumeType": registration.volume_type,
        }
        given = {name: value for name, value in ebs.items() if value}
        yield {"DeviceName": registration.root_device, "Ebs": {**given, "DeleteOnTermination": True}}


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
        "RootDeviceName": registration.root_device,
        "BootMode": registration.boot_mode,
        "ImdsSupport": registration.imds_support,
        "BlockDeviceMappings": [
            *_root_mapping(registration),
            *(
                {"VirtualName": virtual, "DeviceName": device if device.startswith("/dev/") else f"/dev/{device}"}
                for virtual, device in sorted(registration.block_device_mappings.items())
                if virtual.startswith("ephemeral")
            ),
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
