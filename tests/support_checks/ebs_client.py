"""EBS requests as a client makes them that knows the rules, and the ways to break one of them at a time."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from botocore.exceptions import ClientError

from support.ebs_endpoint import BLOCK


def sha256(data: bytes) -> str:
    return base64.b64encode(hashlib.sha256(data).digest()).decode()


def linear(blocks: dict[int, bytes]) -> str:
    return sha256(b"".join(hashlib.sha256(blocks[index]).digest() for index in sorted(blocks)))


def block(number: int) -> bytes:
    """Return a block that no other number gives."""
    return number.to_bytes(4, "big") * (BLOCK // 4)


def refusal(call: Callable[[], object]) -> str | None:
    """Return the code, and the reason if there is one, of the error that a call meets: `Code/REASON`."""
    try:
        call()
    except ClientError as error:
        code, reason = str(error.response["Error"]["Code"]), error.response.get("Reason")
        return f"{code}/{reason}" if reason else code
    return None


@dataclass
class Writer:
    """A client of `ebs` and the blocks that it put, by snapshot."""

    ebs: Any
    blocks: dict[str, dict[int, bytes]] = field(default_factory=dict)

    def start(self, **words: Any) -> str:
        snapshot = str(self.ebs.start_snapshot(**{"VolumeSize": 1} | words)["SnapshotId"])
        self.blocks.setdefault(snapshot, {})
        return snapshot

    def put(self, snapshot: str, index: int, data: bytes, **other: Any) -> dict[str, Any]:
        words = {"DataLength": len(data), "Checksum": sha256(data), "ChecksumAlgorithm": "SHA256"} | other
        answer = self.ebs.put_snapshot_block(SnapshotId=snapshot, BlockIndex=index, BlockData=data, **words)
        self.blocks.setdefault(snapshot, {})[index] = data
        return dict(answer)

    def complete(self, snapshot: str, **other: Any) -> dict[str, Any]:
        words = {
            "ChangedBlocksCount": len(self.blocks[snapshot]),
            "Checksum": linear(self.blocks[snapshot]),
            "ChecksumAlgorithm": "SHA256",
            "ChecksumAggregationMethod": "LINEAR",
        } | other
        return dict(self.ebs.complete_snapshot(SnapshotId=snapshot, **words))

    def whole(self, *indices: int, **words: Any) -> str:
        """Make a completed snapshot with these blocks."""
        snapshot = self.start(**words)
        for index in indices:
            self.put(snapshot, index, block(index))
        self.complete(snapshot)
        return snapshot

    def tokens(self, snapshot: str) -> dict[int, str]:
        blocks = self.ebs.list_snapshot_blocks(SnapshotId=snapshot)["Blocks"]
        return {each["BlockIndex"]: each["BlockToken"] for each in blocks}

    def get(self, snapshot: str, index: int, token: str) -> bytes:
        answer = self.ebs.get_snapshot_block(SnapshotId=snapshot, BlockIndex=index, BlockToken=token)
        data = bytes(answer["BlockData"].read())
        assert answer["Checksum"] == sha256(data)
        return data
