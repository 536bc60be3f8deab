"""The source and the end of the credentials, by the SDK's own provider chain."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from amistream.aws.credentials import CredentialFacts, find_credentials
from amistream.aws.session import Aws
from amistream.errors import StoreError
from amistream.settings import Settings

SECRETS = ("AKIAFORATEST", "secret-of-a-test", "token-of-a-test")


async def found(tmp_path: Path) -> CredentialFacts | None:
    async with Aws(Settings(state_dir=tmp_path)) as aws:
        facts = await find_credentials(aws)
    assert not any(secret in repr(facts) for secret in SECRETS)
    return facts


@pytest.fixture
def in_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", SECRETS[0])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRETS[1])


async def test_none(tmp_path: Path) -> None:
    """Without any credentials none are found."""
    assert await found(tmp_path) is None


@pytest.mark.usefixtures("in_environment")
async def test_lasting(tmp_path: Path) -> None:
    """A user's own keys last."""
    assert await found(tmp_path) == CredentialFacts(
        origin="the environment", temporary=False, expires_at=None, renews=False
    )


@pytest.mark.usefixtures("in_environment")
async def test_temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A session token from the environment ends at the given time and is not renewed."""
    monkeypatch.setenv("AWS_SESSION_TOKEN", SECRETS[2])
    assert await found(tmp_path) == CredentialFacts(
        origin="the environment", temporary=True, expires_at=None, renews=False
    )
    monkeypatch.setenv("AWS_CREDENTIAL_EXPIRATION", "2030-01-31T12:00:00Z")
    assert await found(tmp_path) == CredentialFacts(
        origin="the environment", temporary=True, expires_at=datetime(2030, 1, 31, 12, tzinfo=UTC), renews=False
    )


async def test_renewed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials of a process are renewed before they end."""
    credentials = {"Version": 1, "AccessKeyId": SECRETS[0], "SecretAccessKey": SECRETS[1], "SessionToken": SECRETS[2],
            "Expiration": "2030-01-31T12:00:00Z"}  # fmt: skip
    (tmp_path / "credentials").write_text(json.dumps(credentials))
    (tmp_path / "print.py").write_text(f"print(open({str(tmp_path / 'credentials')!r}).read())")
    (tmp_path / "config").write_text(f"[default]\ncredential_process = {sys.executable} {tmp_path / 'print.py'}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    facts = await found(tmp_path)
    assert facts is not None
    assert (facts.origin, facts.temporary, facts.renews) == ("a credential process", True, True)


async def test_a_profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys of a profile last; a profile that is not there is an error that names it."""
    keys = f"aws_access_key_id = {SECRETS[0]}\naws_secret_access_key = {SECRETS[1]}\n"
    (tmp_path / "credentials").write_text(f"[work]\n{keys}")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_PROFILE", "work")
    assert await found(tmp_path) == CredentialFacts(
        origin="the credentials file", temporary=False, expires_at=None, renews=False
    )
    monkeypatch.setenv("AWS_PROFILE", "play")
    with pytest.raises(StoreError, match="play"):
        await found(tmp_path)


@pytest.mark.usefixtures("in_environment")
async def test_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a pair, and an end that is no time, are errors with words."""
    monkeypatch.setenv("AWS_CREDENTIAL_EXPIRATION", "soon")
    with pytest.raises(StoreError, match="AWS_CREDENTIAL_EXPIRATION is not a time"):
        await found(tmp_path)
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(StoreError, match="cannot find AWS credentials: "):
        await found(tmp_path)
