"""Reads the instance's metadata: what a bundle inherits, and notices that the instance is about to be ended.

Instance metadata service, version 2: a PUT for a token, then GETs with it; without one where a compatible cloud has
version 1 only. Outside EC2 nothing answers at the link-local address; short timeouts turn that into an error instead of
a hang. `AWS_EC2_METADATA_SERVICE_ENDPOINT`, which the SDKs use too, sets another address.
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from amistream.errors import RefusedError, UnreachedError

if TYPE_CHECKING:
    import aiohttp

ENDPOINT = "http://169.254.169.254"
TOKEN_TTL_S = 21600
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


@dataclass(frozen=True, slots=True)
class EndNotice:
    """AWS is about to end this instance. `at` is None where it does not say when."""

    reason: str
    at: datetime | None


async def inherited() -> Inherited:
    """Ask the metadata service. Raises `RefusedError` when there is none."""
    try:
        async with _service() as get:
            names = (await get("block-device-mapping/")).split()
            mappings = {
                virtual: "".join((await get(f"block-device-mapping/{virtual}")).split())
                for virtual in names
                if not virtual.startswith("ebs")
            }
            ancestors = (await get("ancestor-ami-ids")).split()
            return Inherited(
                block_device_mappings={virtual: device for virtual, device in mappings.items() if device},
                kernel="".join((await get("kernel-id")).split()),
                ramdisk="".join((await get("ramdisk-id")).split()),
                product_codes=tuple((await get("product-codes")).split()),
                # The instance's own AMI may be among its ancestors already.
                ancestors=tuple(dict.fromkeys((*ancestors, *(await get("ami-id")).split()))),
            )
    except UnreachedError as error:
        raise RefusedError(
            "metadata.unreachable",
            f"cannot inherit from this instance: its metadata service does not answer at {_endpoint()}",
            hint="leave out --inherit outside EC2; in a container, raise the metadata response hop limit to 2",
            field="inherit",
        ) from error


async def end_notice() -> EndNotice | None:
    """The notice that this instance is about to be ended, if there is one: of a spot instance, or of its group.

    Raises `UnreachedError`.
    """
    async with _service() as get:
        if action := await get("spot/instance-action"):
            return _spot_notice(action)
        if (await get("autoscaling/target-lifecycle-state")).strip() == "Terminated":
            return EndNotice("its Auto Scaling group ends the instance", None)
        return None


def _spot_notice(text: str) -> EndNotice:
    try:
        values = json.loads(text)
        at = datetime.fromisoformat(str(values["time"]))
    except (ValueError, LookupError, TypeError):
        return EndNotice("the spot instance is interrupted", None)
    return EndNotice("the spot instance is interrupted", at if at.tzinfo else at.replace(tzinfo=UTC))


def _endpoint() -> str:
    return os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT", ENDPOINT).rstrip("/")


@asynccontextmanager
async def _service() -> AsyncIterator[Callable[[str], Awaitable[str]]]:
    """A function that gets the text at a path, '' if the instance has none. Raises `UnreachedError`."""
    import aiohttp

    timeout = aiohttp.ClientTimeout(total=5, sock_connect=1, sock_read=2)
    try:
        async with aiohttp.ClientSession(timeout=timeout, raise_for_status=False) as session:
            token = await _token(session, _endpoint())

            async def get(path: str) -> str:
                async with session.get(f"{_endpoint()}/latest/meta-data/{path}", headers=token) as answer:
                    if answer.status == _NOT_FOUND:
                        return ""
                    answer.raise_for_status()
                    return await answer.text()

            yield get
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        raise UnreachedError(
            "metadata.unreachable",
            f"cannot read the instance's metadata: no good answer from {_endpoint()}",
            hint="only instances of EC2 have metadata; in a container, raise the metadata response hop limit to 2",
            transient=True,
        ) from error


async def _token(session: aiohttp.ClientSession, endpoint: str) -> dict[str, str]:
    """The header that further requests need: none for version 1."""
    headers = {"X-aws-ec2-metadata-token-ttl-seconds": str(TOKEN_TTL_S)}
    async with session.put(f"{endpoint}/latest/api/token", headers=headers) as reply:
        if reply.status in _NO_TOKENS:
            return {}
        reply.raise_for_status()
        return {"X-aws-ec2-metadata-token": await reply.text()}
