"""Reads the instance metadata that a bundle inherits: mapping, kernel, ramdisk, product codes, ancestors.

Instance metadata service, version 2: a PUT for a token, then GETs with it; without one where a compatible cloud has
version 1 only. Outside EC2 nothing answers at the link-local address; short timeouts turn that into an error instead of
a hang. `AWS_EC2_METADATA_SERVICE_ENDPOINT`, which the SDKs use too, sets another address.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

import aiohttp

from amistream.errors import RefusedError

ENDPOINT = "http://169.254.169.254"
TOKEN_TTL_S = 21600
_TIMEOUT = aiohttp.ClientTimeout(total=5, sock_connect=1, sock_read=2)
_NOT_FOUND = 404
_NO_TOKENS = {403, 404, 405}
"""Answers for which the SDKs, too, go on with version 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inherited:
    """Metadata of the instance; a field is empty where the instance has no such value."""

    block_device_mappings: Mapping[str, str] = field(default_factory=dict)
    kernel: str = ""
    ramdisk: str = ""
    product_codes: tuple[str, ...] = ()
    ancestors: tuple[str, ...] = ()


async def inherited() -> Inherited:
    """Ask the metadata service. Raises `RefusedError` when there is none."""
    endpoint = os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT", ENDPOINT).rstrip("/")
    try:
        async with aiohttp.ClientSession(timeout=_TIMEOUT, raise_for_status=False) as session:
            token = await _token(session, endpoint)

            async def get(path: str) -> list[str]:
                url = f"{endpoint}/latest/meta-data/{path}"
                async with session.get(url, headers=token) as answer:
                    if answer.status == _NOT_FOUND:
                        return []
                    answer.raise_for_status()
                    return (await answer.text()).split()

            mappings = {
                virtual: "".join(await get(f"block-device-mapping/{virtual}"))
                for virtual in await get("block-device-mapping/")
                if not virtual.startswith("ebs")
            }
            return Inherited(
                block_device_mappings={virtual: device for virtual, device in mappings.items() if device},
                kernel="".join(await get("kernel-id")),
                ramdisk="".join(await get("ramdisk-id")),
                product_codes=tuple(await get("product-codes")),
                # The instance's own AMI may be among its ancestors already.
                ancestors=tuple(dict.fromkeys((*await get("ancestor-ami-ids"), *await get("ami-id")))),
            )
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        raise RefusedError(
            "metadata.unreachable",
            f"cannot inherit from this instance: its metadata service does not answer at {endpoint}",
            hint="leave out --inherit outside EC2; in a container, raise the metadata response hop limit to 2",
            field="inherit",
        ) from error


async def _token(session: aiohttp.ClientSession, endpoint: str) -> dict[str, str]:
    """The header that further requests need: none for version 1."""
    headers = {"X-aws-ec2-metadata-token-ttl-seconds": str(TOKEN_TTL_S)}
    async with session.put(f"{endpoint}/latest/api/token", headers=headers) as reply:
        if reply.status in _NO_TOKENS:
            return {}
        reply.raise_for_status()
        return {"X-aws-ec2-metadata-token": await reply.text()}
