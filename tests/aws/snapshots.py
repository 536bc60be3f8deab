"""The adapter of snapshots at an endpoint of the tests, and blocks to put."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import sha256
from typing import TYPE_CHECKING

from amistream.aws.ebs import Ebs, open_ebs
from amistream.aws.session import Aws
from amistream.ports.snapshots import BLOCK, SnapshotOrder
from amistream.settings import Settings
from amistream.values import AccessKeys

if TYPE_CHECKING:
    from support.endpoints import Endpoint

KEYS = AccessKeys(access_key="AKIAIOSFODNN7EXAMPLE", secret_key="wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", token=None)


@asynccontextmanager
async def snapshots_at(endpoint: Endpoint, url: str = "") -> AsyncIterator[Ebs]:
    """Open the adapter with the endpoint's credentials, at another `url` if one is given."""
    keys = AccessKeys(access_key=endpoint.access_key, secret_key=endpoint.secret_key, token=None)
    async with Aws(Settings(), keys) as aws:
        yield await open_ebs(aws, endpoint.region, url or endpoint.url, 60)


@asynccontextmanager
async def snapshots_of_url(url: str, timeout_s: float = 60) -> AsyncIterator[Ebs]:
    """Open the adapter for a server that plays AWS."""
    async with Aws(Settings(), KEYS) as aws:
        yield await open_ebs(aws, "eu-west-1", url, timeout_s)


def order(token: str, **words: object) -> SnapshotOrder:
    return SnapshotOrder(**{"token": token, "volume_gib": 1, **words})  # type: ignore[arg-type]


def block(number: int) -> tuple[bytes, bytes]:
    """A block of its own bytes, and its digest."""
    data = number.to_bytes(4) * (BLOCK // 4)
    return data, sha256(data).digest()
