"""The EC2 requests of the EBS double: snapshots are shown and deleted, and AMIs registered on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from support.ebs_endpoint import BLOCK, EbsEndpoint, read_back
from support_checks.ebs_client import Writer, block, refusal

ROOT = "/dev/xvda"


@dataclass
class Scene:
    """Clients of an account, and a completed snapshot in it."""

    endpoint: EbsEndpoint
    writer: Writer
    ec2: Any
    snapshot: str

    def register(self, **words: Any) -> str:
        """Register an AMI; `ebs` are further members of its root, and None leaves a word out."""
        ebs = {"SnapshotId": self.snapshot, "VolumeType": "gp3"} | words.pop("ebs", {})
        wanted = {
            "Name": "an image",
            "RootDeviceName": ROOT,
            "Architecture": "x86_64",
            "VirtualizationType": "hvm",
            "BlockDeviceMappings": [{"DeviceName": ROOT, "Ebs": ebs}],
        } | words
        given = {name: value for name, value in wanted.items() if value is not None}
        return str(self.ec2.register_image(**given)["ImageId"])


@pytest.fixture
def scene(ebs_endpoint: EbsEndpoint) -> Iterator[Scene]:
    with ebs_endpoint.blocking_client("ebs") as ebs, ebs_endpoint.blocking_client("ec2") as ec2:
        writer = Writer(ebs)
        yield Scene(ebs_endpoint, writer, ec2, writer.whole(0, 7, VolumeSize=2, Tags=[{"Key": "a", "Value": "b"}]))


def test_snapshot_to_image(scene: Scene, tmp_path: Path) -> None:
    """An image keeps what it was registered with, and its snapshot is no orphan."""
    assert scene.endpoint.orphans() == [scene.snapshot]
    mappings = [
        {"DeviceName": ROOT, "Ebs": {"SnapshotId": scene.snapshot, "VolumeSize": 3, "DeleteOnTermination": False}},
        {"DeviceName": "/dev/sdb", "VirtualName": "ephemeral0"},
    ]
    kept = {"SriovNetSupport": "simple", "BootMode": "uefi", "ImdsSupport": "v2.0", "TpmSupport": "v2.0"}
    tags = [{"Key": "k", "Value": "v"}]
    image = scene.register(
        BlockDeviceMappings=mappings,
        EnaSupport=True,
        Description="words",
        TagSpecifications=[{"ResourceType": "image", "Tags": tags}],
        **kept,
    )
    by_tag = [{"Name": "tag:k", "Values": ["v"]}, {"Name": "name", "Values": ["an*"]}]
    (found,) = scene.ec2.describe_images(Owners=["self"], Filters=by_tag)["Images"]
    assert (found["ImageId"], found["State"], found["RootDeviceType"]) == (image, "available", "ebs")
    assert (found["Architecture"], found["VirtualizationType"], found["EnaSupport"]) == ("x86_64", "hvm", True)
    assert {name: found[name] for name in kept} == kept
    assert (found["Description"], found["Tags"], found["RootDeviceName"]) == ("words", tags, ROOT)
    root, ephemeral = found["BlockDeviceMappings"]
    assert root["Ebs"].items() >= {"VolumeSize": 3, "VolumeType": "gp2", "DeleteOnTermination": False}.items()
    assert ephemeral == mappings[1]
    assert scene.endpoint.orphans() == []
    assert read_back(scene.endpoint, scene.snapshot, tmp_path / "volume") == [0, 7]
    with (tmp_path / "volume").open("rb") as file:
        assert file.read(BLOCK) == block(0)
        file.seek(7 * BLOCK)
        assert file.read(2 * BLOCK) == block(7) + bytes(BLOCK)
        assert file.seek(0, 2) == 2 << 30


def test_defaults(scene: Scene) -> None:
    """An image without a word about it is for i386 and paravirtual, as EC2 has it."""
    scene.register(Architecture=None, VirtualizationType=None)
    (image,) = scene.ec2.describe_images()["Images"]
    assert (image["Architecture"], image["VirtualizationType"]) == ("i386", "paravirtual")


@dataclass(frozen=True)
class Rule:
    name: str
    request: Callable[[Scene], object]
    code: str


def taken_name(scene: Scene) -> object:
    scene.register()
    return scene.register()


def pending_root(scene: Scene) -> object:
    return scene.register(ebs={"SnapshotId": scene.writer.start()})


def in_use(scene: Scene) -> object:
    scene.register()
    return scene.ec2.delete_snapshot(SnapshotId=scene.snapshot)


def unknown_filter(scene: Scene) -> object:
    return scene.ec2.describe_snapshots(Filters=[{"Name": "x", "Values": ["y"]}])


RULES = (
    Rule("taken name", taken_name, "InvalidAMIName.Duplicate"),
    Rule("name with a colon", lambda s: s.register(Name="a:b"), "InvalidAMIName.Malformed"),
    Rule("pending snapshot", pending_root, "IncorrectState"),
    Rule("unknown snapshot", lambda s: s.register(ebs={"SnapshotId": "snap-00000000"}), "InvalidSnapshot.NotFound"),
    Rule("encrypted", lambda s: s.register(ebs={"Encrypted": True}), "InvalidParameterCombination"),
    Rule("small volume", lambda s: s.register(ebs={"VolumeSize": 1}), "InvalidBlockDeviceMapping"),
    Rule("root that is not mapped", lambda s: s.register(RootDeviceName="/dev/sda1"), "InvalidBlockDeviceMapping"),
    Rule("no root", lambda s: s.register(RootDeviceName=None), "InvalidBlockDeviceMapping"),
    Rule("unknown boot mode", lambda s: s.register(BootMode="bios"), "InvalidParameterValue"),
    Rule("kernel with hvm", lambda s: s.register(KernelId="aki-1"), "InvalidParameterCombination"),
    Rule("TPM without UEFI", lambda s: s.register(TpmSupport="v2.0"), "InvalidParameterCombination"),
    Rule("dry run", lambda s: s.register(DryRun=True), "DryRunOperation"),
    Rule("dry run of a bad one", lambda s: s.register(DryRun=True, Name="a:b"), "InvalidAMIName.Malformed"),
    Rule("delete a snapshot in use", in_use, "InvalidSnapshot.InUse"),
    Rule(
        "delete an unknown snapshot",
        lambda s: s.ec2.delete_snapshot(SnapshotId="snap-00000000"),
        "InvalidSnapshot.NotFound",
    ),
    Rule(
        "show an unknown snapshot",
        lambda s: s.ec2.describe_snapshots(SnapshotIds=["snap-00000000"]),
        "InvalidSnapshot.NotFound",
    ),
    Rule("show an unknown image", lambda s: s.ec2.describe_images(ImageIds=["ami-00000000"]), "InvalidAMIID.NotFound"),
    Rule(
        "unknown filter",
        lambda s: s.ec2.describe_snapshots(Filters=[{"Name": "x", "Values": ["y"]}]),
        "InvalidParameterValue",
    ),
    Rule(
        "deregister an unknown image", lambda s: s.ec2.deregister_image(ImageId="ami-00000000"), "InvalidAMIID.NotFound"
    ),
    Rule("unknown action", lambda s: s.ec2.describe_vpcs(), "InvalidAction"),
)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_refused(rule: Rule, scene: Scene) -> None:
    """A request that breaks one rule of EC2 is refused with EC2's code, and registers nothing."""
    before = len(scene.endpoint.images())
    assert refusal(lambda: rule.request(scene)) == rule.code
    assert len(scene.endpoint.images()) - before in ({1} if rule.request in {taken_name, in_use} else {0})


def test_removal(scene: Scene) -> None:
    """A deregistered image frees its snapshot, which can be deleted then, and frees its name."""
    scene.ec2.deregister_image(ImageId=scene.register())
    scene.ec2.deregister_image(ImageId=scene.register())
    file = Path(scene.endpoint.snapshot(scene.snapshot)["file"])
    assert file.exists()
    scene.ec2.delete_snapshot(SnapshotId=scene.snapshot)
    assert not file.exists()
    assert scene.ec2.describe_snapshots(OwnerIds=["self"])["Snapshots"] == []


def test_tags(scene: Scene) -> None:
    """Tags of snapshots and images are kept, listed, and found by filters."""
    image = scene.register()
    scene.ec2.create_tags(Resources=[image, scene.snapshot], Tags=[{"Key": "c", "Value": "d"}])
    tags = scene.ec2.describe_tags(Filters=[{"Name": "resource-id", "Values": [scene.snapshot]}])["Tags"]
    assert {tag["Key"]: tag["Value"] for tag in tags} == {"a": "b", "c": "d"}
    for key, found in (("c", [scene.snapshot]), ("e", [])):
        shown = scene.ec2.describe_snapshots(Filters=[{"Name": "tag-key", "Values": [key]}])["Snapshots"]
        assert [each["SnapshotId"] for each in shown] == found


def test_account(scene: Scene) -> None:
    """STS names the account that owns the snapshots, and EC2 its region and encryption."""
    with scene.endpoint.blocking_client("sts") as sts:
        account = sts.get_caller_identity()["Account"]
    (shown,) = scene.ec2.describe_snapshots(OwnerIds=[account])["Snapshots"]
    assert shown["OwnerId"] == account == scene.endpoint.account_id
    assert scene.ec2.describe_regions()["Regions"][0]["RegionName"] == scene.endpoint.region
    assert scene.ec2.get_ebs_encryption_by_default()["EbsEncryptionByDefault"] is False
    scene.endpoint.set(encryption_by_default=True)
    assert scene.ec2.get_ebs_encryption_by_default()["EbsEncryptionByDefault"] is True
    key = scene.ec2.get_ebs_default_kms_key_id()["KmsKeyId"]
    assert scene.writer.ebs.start_snapshot(VolumeSize=1)["KmsKeyArn"] == key
    refused = refusal(lambda: scene.writer.start(ParentSnapshotId=scene.snapshot, VolumeSize=2))
    assert refused == "ValidationException/INVALID_PARAMETER_VALUE"
