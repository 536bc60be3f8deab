"""A secret in a place of the environment that is for something else is in no message."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from botocore.exceptions import ConnectionError as SdkConnectionError

from amistream.aws.credentials import find_credentials
from amistream.aws.session import Aws
from amistream.aws.translate import translate
from amistream.errors import AmistreamError
from amistream.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

SECRET = "secret-of-a-test"


@pytest.mark.parametrize("token", [f"eyJ{SECRET}.{SECRET}.{SECRET}", f"eyJ{SECRET * 100}"])
async def test_a_token_in_place_of_its_file(token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """AWS_WEB_IDENTITY_TOKEN_FILE is set to a token itself."""
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", token)
    monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/r")
    async with Aws(Settings()) as aws:
        with pytest.raises(AmistreamError, match="AWS_WEB_IDENTITY_TOKEN_FILE") as caught:
            await find_credentials(aws)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("command", [f"TOKEN={SECRET} vault", f"TOKEN='{SECRET} more' vault"])
async def test_a_variable_before_a_program(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A credential process is no line of a shell: the variable is taken for the program, and named."""
    (tmp_path / "config").write_text(f"[default]\ncredential_process = {command}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    async with Aws(Settings()) as aws:
        with pytest.raises(AmistreamError, match=r"its program TOKEN=\[\.\.\.\] cannot be started") as caught:
            await find_credentials(aws)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("user", [f"me:{SECRET}", f"me:@{SECRET}", f"m@e:a b{SECRET}"])
async def test_a_password_in_an_endpoint(user: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """AWS_ENDPOINT_URL has a user and a password, and is no URL."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"https://{user}@no host")
    async with Aws(Settings()) as aws:
        with pytest.raises(AmistreamError, match="cannot connect to s3") as caught:
            await aws.client("s3", "eu-west-1", "")
    assert SECRET not in str(caught.value)


def test_an_at_in_a_password() -> None:
    """A password with an @ is left out whole; a path with one stays."""
    error = SdkConnectionError(endpoint_url=f"http://me:a@{SECRET}@host:80/b@c", error=OSError("no"))
    assert SECRET not in translate(error, "ask").message
    assert "http://host:80/b@c" in translate(error, "ask").message
