"""Providers of credentials that fail, before a job and in the middle of one."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import pytest

from amistream.aws.credentials import find_credentials
from amistream.aws.session import Aws
from amistream.aws.translate import asking
from amistream.errors import StoreError
from amistream.settings import Settings
from aws.failing import PROVIDERS, SECRET, Provider, World, prepare, running

if TYPE_CHECKING:
    from pathlib import Path


def assert_named(error: StoreError, provider: Provider, caplog: pytest.LogCaptureFixture) -> None:
    """Assert that the error names the provider and has nothing that the provider gave."""
    assert error.code == "aws.credentials"
    assert all(word in error.message for word in provider.named), error.message
    assert error.hint
    assert SECRET not in f"{error}{caplog.text}"


@pytest.mark.parametrize("name", PROVIDERS)
async def test_a_provider_that_fails(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its failure is found before the first byte, and again in the middle; once mended, the same client goes on."""
    provider, settings = PROVIDERS[name], Settings(state_dir=tmp_path)
    async with running(World(tmp_path)) as world, AsyncExitStack() as stack:
        prepare(world, provider, monkeypatch)
        aws = await stack.enter_async_context(Aws(settings))
        client = await aws.client("s3", "eu-west-1", world.url)
        for way in provider.ways:
            await client.head_bucket(Bucket="bucket")
            world.break_it(way)
            with pytest.raises(StoreError) as later:
                async with asking("look"):
                    await client.head_bucket(Bucket="bucket")
            assert_named(later.value, provider, caplog)
            if way not in provider.only_later:
                async with Aws(settings) as another:
                    with pytest.raises(StoreError) as at_first:
                        await find_credentials(another)
                assert_named(at_first.value, provider, caplog)
            prepare(world, provider, monkeypatch)
        await client.head_bucket(Bucket="bucket")
