"""Commands on bundles at an endpoint whose replies say success and lack their content."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from amistream.bundles.meter import Meter
from amistream.bundles.remove import Removal
from amistream.errors import AmistreamError
from amistream.ports.registry import Registration
from bundles.made import work
from support.proxy import HollowReply

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from amistream.bundles.session import BundleSession
    from conftest import MakeProxy
    from support.endpoints import Endpoint
    from support.proxy import Request

MANIFEST = "holes.img.manifest.xml"


async def agree(_: Removal) -> None:
    """Answer yes."""


COMMANDS: dict[str, Callable[[BundleSession, str, Path], Awaitable[Any]]] = {
    "list": lambda session, bucket, _: session.inventory(f"s3://{bucket}"),
    "verify": lambda session, bucket, _: session.verify(f"s3://{bucket}/{MANIFEST}", Meter(), deep=False),
    "download": lambda session, bucket, to: session.download(f"s3://{bucket}/{MANIFEST}", to, Meter()),
    "upload": lambda session, bucket, to: session.upload(
        f"{to.parent}/old/{MANIFEST}", f"s3://{bucket}/{to.name}", Meter()
    ),
    "register": lambda session, bucket, to: session.register(
        f"s3://{bucket}/{MANIFEST}", Registration(name=f"{bucket} {to.name}")
    ),
    "delete": lambda session, bucket, _: session.delete(f"s3://{bucket}/{MANIFEST}", agree, dry_run=True),
}


@pytest.mark.parametrize("command", COMMANDS)
async def test_from_each_request_on_all_replies_are_hollow(
    command: str, cloud: Endpoint, bucket: str, make_proxy: MakeProxy, bundle: Path, tmp_path: Path
) -> None:
    """A command says what is wrong with the endpoint, whichever reply is the first without content."""
    assert bundle.name == MANIFEST
    proxy, failures = make_proxy(cloud), []
    it = work(tmp_path, proxy.endpoint, upload_attempts=2)
    for first in range(40):
        seen = 0

        def hollow(_: Request, first: int = first) -> HollowReply | None:
            nonlocal seen
            seen += 1
            return HollowReply(body=b"" if first % 2 else b"<html/>", undone=True) if seen > first else None

        proxy.at_random = hollow
        async with it.session() as session:
            try:
                await COMMANDS[command](session, bucket, tmp_path / f"got-{first}")
            except AmistreamError as error:
                failures.append(error.code)
        if seen <= first:
            break
    assert seen <= first
    assert set(failures) <= {"aws.unreadable", "register.unknown"}
    assert "aws.unreadable" in failures
