"""The double of the EBS direct APIs does what it promises."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Any

from support.ebs_endpoint import BLOCK, EbsEndpoint, read_back


def sha256(data: bytes) -> str:
    return base64.b64encode(hashlib.sha256(data).digest()).decode()


def linear(blocks: dict[int, bytes]) -> str:
    return sha256(b"".join(hashlib.sha256(blocks[index]).digest() for index in sorted(blocks)))


def put(ebs: Any, snapshot: str, index: int, data: bytes, **other: Any) -> Any:
    words = {"DataLength": len(data), "Checksum": sha256(data), "ChecksumAlgorithm": "SHA256"} | other
    return ebs.put_snapshot_block(SnapshotId=snapshot, BlockIndex=index, BlockData=data, **words)


def complete(ebs: Any, snapshot: str, blocks: dict[int, bytes], **other: Any) -> Any:
    words = {
        "ChangedBlocksCount": len(blocks),
        "Checksum": linear(blocks),
        "ChecksumAlgorithm": "SHA256",
        "ChecksumAggregationMethod": "LINEAR",
    }
    return ebs.complete_snapshot(SnapshotId=snapshot, **words | other)


async def test_snapshot_to_image(ebs_endpoint: EbsEndpoint, tmp_path: Path) -> None:
    """Blocks that were put come back, and an image can be registered on the snapshot."""
    blocks = {index: bytes([index % 251 + 1]) * BLOCK for index in (2047, 0, 7)}
    async with ebs_endpoint.client("ebs") as ebs:
        started = await ebs.start_snapshot(VolumeSize=1, Tags=[{"Key": "a", "Value": "b"}])
        snapshot = started["SnapshotId"]
        assert (started["BlockSize"], started["Status"], started["VolumeSize"]) == (BLOCK, "pending", 1)
        for index, data in blocks.items():
            assert (await put(ebs, snapshot, index, data))["Checksum"] == sha256(data)
        assert (await complete(ebs, snapshot, blocks))["Status"] == "pending"
    assert ebs_endpoint.orphans() == [snapshot]
    with ebs_endpoint.blocking_client("ec2") as ec2:
        (shown,) = ec2.describe_snapshots(SnapshotIds=[snapshot])["Snapshots"]
        assert (shown["State"], shown["Progress"], shown["Tags"]) == ("completed", "100%", started["Tags"])
        image = ec2.register_image(
            Name="a b",
            RootDeviceName="/dev/xvda",
            Architecture="x86_64",
            VirtualizationType="hvm",
            EnaSupport=True,
            BlockDeviceMappings=[
                {"DeviceName": "/dev/xvda", "Ebs": {"SnapshotId": snapshot, "VolumeType": "gp3"}},
                {"DeviceName": "/dev/sdb", "VirtualName": "ephemeral0"},
            ],
        )["ImageId"]
        (found,) = ec2.describe_images(Owners=["self"], Filters=[{"Name": "name", "Values": ["a b"]}])["Images"]
        assert (found["ImageId"], found["State"], found["RootDeviceType"]) == (image, "available", "ebs")
        assert found["BlockDeviceMappings"][0]["Ebs"]["VolumeSize"] == 1
        assert found["BlockDeviceMappings"][1] == {"DeviceName": "/dev/sdb", "VirtualName": "ephemeral0"}
    assert ebs_endpoint.orphans() == []
    assert read_back(ebs_endpoint, snapshot, tmp_path / "volume") == [0, 7, 2047]
    with (tmp_path / "volume").open("rb") as file:
        for index, data in {**blocks, 1: bytes(BLOCK)}.items():
            file.seek(index * BLOCK)
            assert file.read(BLOCK) == data
        assert file.seek(0, 2) == 1 << 30
    assert ebs_endpoint.snapshot(snapshot)["distinct"] == 3
