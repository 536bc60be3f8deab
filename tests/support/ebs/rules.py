"""The limits and words of the EBS direct APIs, and of the EC2 requests around them, checked before anything is done.

Sources: botocore's model `ebs/2019-11-02` and AWS's user guide, the stricter of the two where they differ (the guide
has 64 characters for a client token, the model 255). Unknown members of a request are refused too, which AWS does
not promise: a double should find slips of the pen.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

BLOCK = 512 * 1024
BLOCKS_PER_GIB = (1 << 30) // BLOCK
LARGEST_VOLUME_GIB = 65536
SHORTEST_TIMEOUT_MIN, DEFAULT_TIMEOUT_MIN, LONGEST_TIMEOUT_MIN = 10, 60, 4320
FEWEST_RESULTS, MOST_RESULTS = 100, 10_000
MOST_TAGS = 50
MOST_PENDING = 100

_START_MEMBERS = {
    "VolumeSize": int,
    "ParentSnapshotId": str,
    "Tags": list,
    "Description": str,
    "ClientToken": str,
    "Encrypted": bool,
    "KmsKeyArn": str,
    "Timeout": int,
}


@dataclass
class Refusal(Exception):  # noqa: N818 - an answer, not a fault of the double
    """An error that the endpoint answers; `reason` is the member of that name in the EBS errors."""

    code: str
    status: int
    message: str = ""
    reason: str = ""


def invalid(reason: str, message: str) -> Refusal:
    return Refusal("ValidationException", 400, message, reason)


def not_found(message: str, reason: str = "SNAPSHOT_NOT_FOUND") -> Refusal:
    return Refusal("ResourceNotFoundException", 404, message, reason)


def check_start(words: Mapping[str, Any]) -> None:
    """Check the members of StartSnapshot that need no knowledge of other snapshots."""
    for name, value in words.items():
        if name not in _START_MEMBERS:
            raise invalid("INVALID_PARAMETER_VALUE", f"StartSnapshot has no member {name}")
        if type(value) is not _START_MEMBERS[name]:
            raise invalid("INVALID_PARAMETER_VALUE", f"{name} is a {type(value).__name__}")
    if not 1 <= words.get("VolumeSize", 0) <= LARGEST_VOLUME_GIB:
        raise invalid("INVALID_VOLUME_SIZE", f"VolumeSize must be 1 to {LARGEST_VOLUME_GIB} GiB")
    if not SHORTEST_TIMEOUT_MIN <= words.get("Timeout", DEFAULT_TIMEOUT_MIN) <= LONGEST_TIMEOUT_MIN:
        raise invalid("INVALID_PARAMETER_VALUE", "Timeout must be 10 to 4320 minutes")
    if "Description" in words and not 1 <= len(words["Description"]) <= 255:
        raise invalid("INVALID_PARAMETER_VALUE", "Description must have 1 to 255 characters")
    if "ClientToken" in words and not re.fullmatch(r"[!-~]{1,64}", words["ClientToken"]):
        raise invalid("INVALID_PARAMETER_VALUE", "ClientToken must have 1 to 64 ASCII characters without spaces")
    check_tags(words.get("Tags", []))
    _check_encryption(words)


def _check_encryption(words: Mapping[str, Any]) -> None:
    if "KmsKeyArn" in words and not re.fullmatch(r"arn:aws[a-z-]*:kms:.*:[0-9]{12}:key/.*", words["KmsKeyArn"]):
        raise invalid("INVALID_CUSTOMER_KEY", "KmsKeyArn is not the ARN of a key")
    if "ParentSnapshotId" in words:
        if "Encrypted" in words or "KmsKeyArn" in words:
            raise invalid("INVALID_PARAMETER_VALUE", "Encrypted and KmsKeyArn cannot be given with ParentSnapshotId")
        check_snapshot_id(words["ParentSnapshotId"])
    if "KmsKeyArn" in words and not words.get("Encrypted"):
        raise invalid("INVALID_PARAMETER_VALUE", "KmsKeyArn needs Encrypted")


def check_tags(tags: list[Any]) -> None:
    if len(tags) > MOST_TAGS:
        raise invalid("INVALID_TAG", f"more than {MOST_TAGS} tags")
    keys = [tag.get("Key", "") for tag in tags]
    if len(set(keys)) != len(keys):
        raise invalid("INVALID_TAG", "a key comes twice")
    for tag in tags:
        key, value = tag.get("Key", ""), tag.get("Value", "")
        if not 1 <= len(key) <= 127 or len(value) > 255 or key.lower().startswith("aws:"):
            raise invalid("INVALID_TAG", f"the tag {key!r} is not allowed")


def check_snapshot_id(text: str) -> str:
    if not re.fullmatch(r"snap-[0-9a-f]{1,59}", text):
        raise invalid("INVALID_SNAPSHOT_ID", f"{text!r} is no snapshot id")
    return text


def block_index(text: str, volume_gib: int) -> int:
    """Return the index of a block within a volume of that size."""
    if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) >= volume_gib * BLOCKS_PER_GIB:
        raise invalid("INVALID_BLOCK", f"block {text} lies outside of a volume of {volume_gib} GiB")
    return int(text)


def check_block_head(headers: Mapping[str, str]) -> bytes:
    """Check the headers of PutSnapshotBlock; return the digest that they promise."""
    if headers.get("x-amz-Data-Length") != str(BLOCK):
        raise invalid("INVALID_BLOCK", f"x-amz-Data-Length must be {BLOCK}")
    if headers.get("x-amz-Checksum-Algorithm") != "SHA256":
        raise invalid("INVALID_PARAMETER_VALUE", "x-amz-Checksum-Algorithm must be SHA256")
    if not re.fullmatch(r"100|[0-9]{1,2}", headers.get("x-amz-Progress", "0")):
        raise invalid("INVALID_PARAMETER_VALUE", "x-amz-Progress must be 0 to 100")
    return digest_of(headers.get("x-amz-Checksum", ""))


def check_complete_head(headers: Mapping[str, str]) -> tuple[int, bytes | None]:
    """Check the headers of CompleteSnapshot; return the count, and the aggregate digest if one is given."""
    count = headers.get("x-amz-ChangedBlocksCount", "")
    if not re.fullmatch(r"[0-9]{1,9}", count):
        raise invalid("INVALID_PARAMETER_VALUE", "x-amz-ChangedBlocksCount must be a number")
    if headers.get("x-amz-Checksum-Algorithm", "SHA256") != "SHA256":
        raise invalid("INVALID_PARAMETER_VALUE", "x-amz-Checksum-Algorithm must be SHA256")
    if headers.get("x-amz-Checksum-Aggregation-Method", "LINEAR") != "LINEAR":
        raise invalid("INVALID_PARAMETER_VALUE", "x-amz-Checksum-Aggregation-Method must be LINEAR")
    if "x-amz-Checksum" not in headers:
        return int(count), None
    if not {"x-amz-Checksum-Algorithm", "x-amz-Checksum-Aggregation-Method"} <= set(headers):
        raise invalid("INVALID_PARAMETER_VALUE", "a checksum needs its algorithm and aggregation method")
    return int(count), digest_of(headers["x-amz-Checksum"])


def digest_of(text: str) -> bytes:
    """Decode a SHA-256 in base64."""
    try:
        digest = base64.b64decode(text, validate=True)
    except binascii.Error:
        digest = b""
    if len(digest) != 32:
        raise invalid("INVALID_PARAMETER_VALUE", "x-amz-Checksum must be a SHA-256 in base64")
    return digest


def number(query: Mapping[str, str], name: str, least: int, most: int, otherwise: int) -> int:
    text = query.get(name, str(otherwise))
    if not re.fullmatch(r"[0-9]{1,9}", text) or not least <= int(text) <= most:
        raise invalid("INVALID_PARAMETER_VALUE", f"{name} must be {least} to {most}")
    return int(text)
