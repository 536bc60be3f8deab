"""AMIs on snapshots: RegisterImage's rules, and an image as DescribeImages shows it."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from support.ebs.account import Account
from support.ebs.rules import Refusal

_PARAMETERS = frozenset(
    {
        "Action", "Version", "DryRun", "Name", "Description", "ImageLocation", "Architecture", "VirtualizationType",
        "KernelId", "RamdiskId", "RootDeviceName", "BlockDeviceMapping", "EnaSupport", "SriovNetSupport", "BootMode",
        "ImdsSupport", "TpmSupport", "UefiData", "TagSpecification",
    }
)  # fmt: skip
_CHOICES = {
    "Architecture": {"i386", "x86_64", "arm64"},
    "VirtualizationType": {"hvm", "paravirtual"},
    "BootMode": {"legacy-bios", "uefi", "uefi-preferred"},
    "SriovNetSupport": {"simple"},
    "ImdsSupport": {"v2.0"},
    "TpmSupport": {"v2.0"},
    "EnaSupport": {"true", "false"},
}
_VOLUME_TYPES = {"standard", "gp2", "gp3", "io1", "io2", "st1", "sc1"}
_EBS_MEMBERS = {
    "SnapshotId", "VolumeSize", "VolumeType", "DeleteOnTermination", "Encrypted", "Iops", "Throughput", "KmsKeyId",
}  # fmt: skip
NAME = re.compile(r"[A-Za-z0-9()\[\] ./\-'@_]{3,128}")


@dataclass
class Image:
    """A registered AMI; `words` are the parameters of RegisterImage with their defaults."""

    id: str
    words: dict[str, Any]
    mappings: list[dict[str, Any]]
    created: float
    account: str
    tags: dict[str, str]
    state: str = "available"
    reason: str = ""
    unseen: int = 0
    """Answers that it was left out of."""
    pending: int = 0
    """Answers that showed it as pending."""

    @property
    def snapshots(self) -> list[str]:
        return [each["ebs"]["snapshotId"] for each in self.mappings if "ebs" in each and "snapshotId" in each["ebs"]]

    @property
    def root_device_type(self) -> str:
        return "ebs" if self.words.get("RootDeviceName") and self.snapshots else "instance-store"

    def described(self) -> dict[str, Any]:
        """Return the members of DescribeImages, by their names on the wire."""
        words = self.words
        return {
            "imageId": self.id,
            "imageLocation": words.get("ImageLocation") or f"{self.account}/{words['Name']}",
            "imageState": self.state,
            "stateReason": {"code": self.state, "message": self.reason} if self.reason else None,
            "imageOwnerId": self.account,
            "creationDate": datetime.fromtimestamp(self.created, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z"),
            "isPublic": False,
            "architecture": words["Architecture"],
            "imageType": "machine",
            "kernelId": words.get("KernelId"),
            "ramdiskId": words.get("RamdiskId"),
            "platformDetails": "Linux/UNIX",
            "usageOperation": "RunInstances",
            "name": words["Name"],
            "description": words.get("Description"),
            "rootDeviceType": self.root_device_type,
            "rootDeviceName": words.get("RootDeviceName"),
            "blockDeviceMapping": self.mappings,
            "virtualizationType": words["VirtualizationType"],
            "hypervisor": "xen",
            "enaSupport": True if words.get("EnaSupport") == "true" else None,
            "sriovNetSupport": words.get("SriovNetSupport"),
            "bootMode": words.get("BootMode"),
            "imdsSupport": words.get("ImdsSupport"),
            "tpmSupport": words.get("TpmSupport"),
            "tagSet": tag_set(self.tags),
        }

    def summary(self) -> dict[str, Any]:
        return self.described() | {"tags": self.tags, "snapshots": self.snapshots}


def tag_set(tags: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"key": key, "value": value} for key, value in sorted(tags.items())]


def register(account: Account, words: dict[str, Any]) -> Image:
    """Check RegisterImage as EC2 does and return the image, which is not yet kept."""
    for name, value in words.items():
        if name not in _PARAMETERS:
            raise Refusal("UnknownParameter", 400, f"The parameter {name} is not recognized")
        if name in _CHOICES and value not in _CHOICES[name]:
            raise Refusal("InvalidParameterValue", 400, f"Value ({value}) for parameter {name} is invalid.")
    words = {"Architecture": "i386", "VirtualizationType": "paravirtual"} | words
    if not NAME.fullmatch(words.get("Name", "")):
        raise Refusal("InvalidAMIName.Malformed", 400, "AMI names must be 3 to 128 letters, digits and ()[] ./-'@_")
    _check_hardware(words)
    mappings = [_mapping(account, each) for each in words.pop("BlockDeviceMapping", [])]
    devices = [each["deviceName"] for each in mappings]
    if len(set(devices)) < len(devices):
        raise Refusal("InvalidBlockDeviceMapping", 400, "a device name comes twice")
    if not words.get("ImageLocation"):
        root = [each for each in mappings if each["deviceName"] == words.get("RootDeviceName")]
        if not root or "snapshotId" not in root[0].get("ebs", {}):
            raise Refusal("InvalidBlockDeviceMapping", 400, "No root snapshot specified in device mapping.")
    for each in account.images.values():
        if each.words["Name"] == words["Name"]:
            message = f"AMI name {words['Name']} is already in use by AMI {each.id}"
            raise Refusal("InvalidAMIName.Duplicate", 400, message)
    tags = specified_tags(words.pop("TagSpecification", []), {"image"})
    name = f"ami-{secrets.token_hex(9)[:17]}"
    return Image(name, words, mappings, account.now, account.id, tags)


def _check_hardware(words: Mapping[str, Any]) -> None:
    hvm = words["VirtualizationType"] == "hvm"
    if hvm and (words.get("KernelId") or words.get("RamdiskId")):
        raise Refusal("InvalidParameterCombination", 400, "kernel and RAM disk are for paravirtual images only")
    for name in ("EnaSupport", "SriovNetSupport", "BootMode", "TpmSupport"):
        if not hvm and words.get(name, "false") != "false":
            raise Refusal("InvalidParameterCombination", 400, f"{name} needs the virtualization type hvm")
    if words["Architecture"] == "arm64" and (not hvm or words.get("BootMode", "uefi") != "uefi"):
        raise Refusal("InvalidParameterCombination", 400, "arm64 needs hvm and the boot mode uefi")
    if words.get("TpmSupport") and words.get("BootMode") not in {"uefi", "uefi-preferred"}:
        raise Refusal("InvalidParameterCombination", 400, "TpmSupport needs the boot mode uefi")


def _mapping(account: Account, words: dict[str, Any]) -> dict[str, Any]:
    made: dict[str, Any] = {"deviceName": words.get("DeviceName", "")}
    if not made["deviceName"]:
        raise Refusal("MissingParameter", 400, "a block device mapping needs a DeviceName")
    if "VirtualName" in words:
        if not re.fullmatch(r"ephemeral([0-9]|1[0-9]|2[0-3])", words["VirtualName"]):
            raise Refusal("InvalidBlockDeviceMapping", 400, f"{words['VirtualName']} is no instance store volume")
        made["virtualName"] = words["VirtualName"]
    if "Ebs" in words:
        if "VirtualName" in words:
            raise Refusal("InvalidBlockDeviceMapping", 400, "a mapping is ephemeral or of EBS, not both")
        made["ebs"] = _ebs(account, words["Ebs"])
    return made


def _ebs(account: Account, words: dict[str, str]) -> dict[str, Any]:
    if unknown := set(words) - _EBS_MEMBERS:
        raise Refusal("UnknownParameter", 400, f"The parameter {', '.join(sorted(unknown))} is not recognized")
    size = int(words.get("VolumeSize", "0"))
    kind = words.get("VolumeType", "gp2")
    if kind not in _VOLUME_TYPES:
        raise Refusal("InvalidParameterValue", 400, f"Value ({kind}) for parameter volumeType is invalid.")
    made: dict[str, Any] = {}
    if "SnapshotId" in words:
        snapshot = account.shelf.snapshots.get(words["SnapshotId"])
        if snapshot is None:
            raise Refusal("InvalidSnapshot.NotFound", 400, f"The snapshot '{words['SnapshotId']}' does not exist.")
        account.settle(snapshot)
        if snapshot.state != "completed":
            raise Refusal("IncorrectState", 400, f"Snapshot '{snapshot.id}' is not completed")
        if "Encrypted" in words or "KmsKeyId" in words:
            message = "the parameter encrypted cannot be specified for a device that has a snapshot"
            raise Refusal("InvalidParameterCombination", 400, message)
        if size and size < snapshot.volume_gib:
            message = f"Volume of size {size}GB is smaller than snapshot '{snapshot.id}'"
            raise Refusal("InvalidBlockDeviceMapping", 400, f"{message}, expect size >= {snapshot.volume_gib}GB")
        size = size or snapshot.volume_gib
        made["snapshotId"] = snapshot.id
        made["encrypted"] = bool(snapshot.key)
    elif not size:
        raise Refusal("MissingParameter", 400, "a volume needs a size or a snapshot")
    else:
        made["encrypted"] = words.get("Encrypted") == "true"
    made |= {"volumeSize": size, "volumeType": kind}
    made["deleteOnTermination"] = words.get("DeleteOnTermination", "true") == "true"
    made |= {name: words[word] for word, name in (("Iops", "iops"), ("Throughput", "throughput")) if word in words}
    return made


def specified_tags(specifications: list[dict[str, Any]], kinds: set[str]) -> dict[str, str]:
    tags: dict[str, str] = {}
    for each in specifications:
        if each.get("ResourceType") not in kinds:
            raise Refusal("InvalidParameterValue", 400, f"cannot tag a {each.get('ResourceType')} here")
        tags |= named_tags(each.get("Tag", []))
    return tags


def named_tags(tags: list[dict[str, str]]) -> dict[str, str]:
    named = {tag.get("Key", ""): tag.get("Value", "") for tag in tags}
    if len(named) > 50 or any(not key or key.startswith("aws:") or len(key) > 127 for key in named):
        raise Refusal("InvalidParameterValue", 400, "a tag is not allowed, or there are more than 50")
    return named
