"""Makes a bucket in which EC2 can read bundles, and deletes one that is empty. One request each, not repeated."""

from __future__ import annotations

import asyncio
from typing import Any

from amistream.aws.translate import SDK_ERRORS, error_code, translate

_DEFAULT_REGION = "us-east-1"
"""The one that must not be named."""


async def make_bucket(client: Any, bucket: str, region: str, timeout_s: float) -> None:
    """Make the bucket in `region`, with ACLs enabled. Raises `StoreError`."""
    place: dict[str, Any] = {}
    if region != _DEFAULT_REGION:
        place = {"CreateBucketConfiguration": {"LocationConstraint": region}}
    try:
        async with asyncio.timeout(timeout_s):
            await client.create_bucket(Bucket=bucket, ObjectOwnership="BucketOwnerPreferred", **place)
    except (*SDK_ERRORS, TimeoutError) as error:
        raise translate(error, f"make the bucket {bucket} in {region}", bucket=bucket) from error


async def delete_if_empty(client: Any, bucket: str, timeout_s: float) -> bool:
    """Delete the bucket, and say whether: one with objects stays. Raises `StoreError`."""
    try:
        async with asyncio.timeout(timeout_s):
            await client.delete_bucket(Bucket=bucket)
    except (*SDK_ERRORS, TimeoutError) as error:
        if error_code(error) == "BucketNotEmpty":
            return False
        raise translate(error, f"delete the bucket {bucket}", bucket=bucket) from error
    return True
