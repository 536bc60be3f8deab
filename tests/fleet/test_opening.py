"""The queue of the settings, as it is opened."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from amistream.aws.session import Aws
from amistream.errors import StoreError
from amistream.fleet.opening import LateQueue
from amistream.settings import Settings
from support.proxy import Answer, Fault
from support.queues import queue_at

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import MakeProxy
    from support.endpoints import Endpoint


async def test_credentials_that_are_replaced(
    ministack: Endpoint, make_proxy: MakeProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host whose credentials have expired finds those that are in the file since, without any job that begins."""
    file = tmp_path / "credentials"

    def write(session: str) -> None:
        keys = {
            "aws_access_key_id": ministack.access_key,
            "aws_secret_access_key": ministack.secret_key,
            "aws_session_token": session,
        }
        file.write_text("\n".join(["[default]", *(f"{name} = {value}" for name, value in keys.items())]))

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    answer = Answer(status=400, code="ExpiredToken", message="The security token has expired")
    expired = Fault(action=answer, method="POST", header="x-amz-security-token: first", times=None)
    proxy = make_proxy(ministack, expired)
    with queue_at(ministack) as url:
        settings = Settings(region=ministack.region, queue_url=url.replace(ministack.url, proxy.url))
        write("first")
        async with Aws(settings) as aws:
            queue = LateQueue(settings, aws)
            with pytest.raises(StoreError, match="expired"):
                await queue.receive(1, 0, 30)
            write("second")
            with pytest.raises(StoreError, match="expired"):
                await queue.receive(1, 0, 30)
            assert await queue.receive(1, 0, 30) == []
