"""The source and the end of the credentials, by the SDK's own provider chain."""

from __future__ import annotations

import json
import os
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from amistream.aws.credential_process import run_credential_process
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


HALF = f"[default]\naws_access_key_id = {SECRETS[0]}\n"
ROLE = "[default]\nrole_arn = arn:aws:iam::123456789012:role/r\n"
PAIR = f"aws_access_key_id = {SECRETS[0]}\naws_secret_access_key = {SECRETS[1]}\n"


@pytest.mark.parametrize(
    ("variable", "content", "words"),
    [
        ("AWS_SECRET_ACCESS_KEY", "", "the environment (AWS_ACCESS_KEY_ID): AWS_SECRET_ACCESS_KEY is missing"),
        ("AWS_CREDENTIAL_EXPIRATION", "soon", "AWS_CREDENTIAL_EXPIRATION is not a time"),
        ("AWS_ACCESS_KEY_ID", "AKIA\rFORATEST", "character 5 of 13, U+000D, of AWS_ACCESS_KEY_ID cannot be part of it"),
        ("AWS_SESSION_TOKEN", "token\nof-a-test", "U+000A, of AWS_SESSION_TOKEN cannot"),
        ("AWS_SESSION_TOKEN", "token\u2013of-a-test", "U+2013, of AWS_SESSION_TOKEN cannot"),
        (
            "AWS_SHARED_CREDENTIALS_FILE",
            HALF,
            "the credentials file (profile default in FILE): aws_secret_access_key is",
        ),
        ("AWS_SHARED_CREDENTIALS_FILE", SECRETS[1], "FILE is not in the SDK's format, see line 1"),
        ("AWS_SHARED_CREDENTIALS_FILE", f"{HALF}aws_secret_access_key =\n", "the secret key is empty"),
        ("AWS_SHARED_CREDENTIALS_FILE", None, "AWS_SHARED_CREDENTIALS_FILE (FILE): it is a directory"),
        ("AWS_CONFIG_FILE", HALF, "the configuration file (profile default in FILE): aws_secret_access_key is missing"),
        ("AWS_CONFIG_FILE", f"[default]\n{SECRETS[1]}\n", "FILE is not in the SDK's format, see line 2"),
        ("AWS_CONFIG_FILE", f"{ROLE}source_profile = absent\n", "absent"),
        (
            "AWS_CONFIG_FILE",
            f"{ROLE}credential_source = Nowhere\n",
            'an assumed role (profile default in FILE): The credential source "Nowhere"',
        ),
        (
            "AWS_CONFIG_FILE",
            f"{ROLE}source_profile = keys\nmfa_serial = arn:aws:iam::123456789012:mfa/me\n[profile keys]\n{PAIR}",
            "an assumed role (profile default in FILE): its MFA code is asked for at a terminal only",
        ),
        ("AWS_CONFIG_FILE", "[default]\ncredential_process = '\n", "No closing quotation"),
        ("AWS_CONFIG_FILE", "[default]\ncredential_process =\n", "its command is empty"),
        ("AWS_CREDENTIAL_FILE", f"AWSAccessKeyId={SECRETS[0]}\n", "the file AWS_CREDENTIAL_FILE (AWS_CREDENTIAL_FILE)"),
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://example.com/", "Unsupported host 'example.com'"),
    ],
)
async def test_broken(
    variable: str, content: str | None, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each provider's fault is an error that names it and its place, and quotes nothing of it."""
    path = tmp_path / "file"
    if variable.endswith("_FILE"):
        path.mkdir() if content is None else path.write_text(content)
        content = str(path)
    else:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", SECRETS[0])
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRETS[1])
    if variable.startswith("AWS_CONTAINER"):
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv(variable, content or "")
    with pytest.raises(StoreError) as caught:
        await found(tmp_path)
    assert caught.value.code == "aws.credentials"
    assert words in caught.value.message.replace(str(path), "FILE")
    assert not any(secret in str(caught.value) for secret in SECRETS)


@pytest.mark.parametrize("variable", ["AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"])
async def test_a_file_in_the_home_of_nobody(variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file in the home directory of a user who is unknown is named as missing."""
    monkeypatch.setenv(variable, "~no-such-user/file")
    with pytest.raises(StoreError, match=f"{variable} .~no-such-user/file.: it does not exist"):
        await found(tmp_path)


async def test_white_space_around_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ends of lines that files and secrets of containers leave at keys are no part of them."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", f"{SECRETS[0]}\r\n")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", f" {SECRETS[1]}\n")
    monkeypatch.setenv("AWS_SESSION_TOKEN", f"{SECRETS[2]}\t")
    async with Aws(Settings(state_dir=tmp_path)) as aws:
        credentials = await aws.credentials()
        assert credentials is not None
        assert (await credentials.get_frozen_credentials())[:3] == SECRETS


async def test_a_program_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A credential process that never ends is named, and killed with all that it has started."""
    os.mkfifo(tmp_path / "held")
    held = os.open(tmp_path / "held", os.O_RDONLY | os.O_NONBLOCK)
    program = tmp_path / "hang"
    program.write_text(f"#!/bin/sh\nsleep 1000 >{tmp_path / 'held'} & sleep 1000\n")
    program.chmod(0o700)
    (tmp_path / "config").write_text(f"[default]\ncredential_process = {program}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    async with Aws(Settings(state_dir=tmp_path, stall_timeout_s=2)) as aws:
        with pytest.raises(StoreError, match=r"a credential process .profile default in .*: no answer in time"):
            await find_credentials(aws)
    os.set_blocking(held, True)
    assert os.read(held, 1) == b""  # once nobody holds it
    os.close(held)


async def test_a_program_that_reads() -> None:
    """A credential process gets nothing of the standard input, which may be the volume."""
    reader, writer = os.pipe()
    own = os.dup(0)
    try:
        os.dup2(reader, 0)
        os.write(writer, b"volume")
        os.close(writer)
        assert (await run_credential_process("cat")).output == b""
        assert os.read(0, 100) == b"volume"
    finally:
        os.dup2(own, 0)
        os.close(own)
        os.close(reader)


@pytest.mark.parametrize("place", ["AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"])
async def test_newer_keys_in_a_file(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next job, or a resume, signs with what is in the file by then, through the clients that there are."""
    path = tmp_path / "keys"
    path.write_text(f"[default]\n{PAIR}aws_session_token = old\n")
    monkeypatch.setenv(place, str(path))
    async with Aws(Settings(state_dir=tmp_path)) as aws:
        client = await aws.client("s3", "eu-west-1", "http://127.0.0.1:1")
        path.write_text(f"[default]\n{PAIR}aws_session_token = new\n")
        assert (await client._request_signer._credentials.get_frozen_credentials()).token == "old"
        assert await find_credentials(aws) is not None
        assert (await client._request_signer._credentials.get_frozen_credentials()).token == "new"
        path.write_text(f"[default]\n{HALF.splitlines()[1]}\n")
        with pytest.raises(StoreError, match="is missing"):
            await find_credentials(aws)
        assert (await client._request_signer._credentials.get_frozen_credentials()).token == "new"


async def test_another_provider_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials that renew themselves are found anew once the file that says how has changed, and only then."""
    log, path = tmp_path / "log", tmp_path / "config"
    for name in ("old", "new"):
        keys = {"Version": 1, "AccessKeyId": SECRETS[0], "SecretAccessKey": SECRETS[1], "SessionToken": name,
                "Expiration": "2090-01-31T12:00:00Z"}  # fmt: skip
        (tmp_path / name).write_text(f"#!/bin/sh\necho {name} >>{log}\necho '{json.dumps(keys)}'\n")
        (tmp_path / name).chmod(0o700)
    path.write_text(f"[default]\ncredential_process = {tmp_path / 'old'}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(path))
    async with Aws(Settings(state_dir=tmp_path)) as aws:
        first = await aws.credentials()
        await aws.credentials()
        path.write_text("[default]\ncredential_process = /no/such/program\n")
        for _ in range(2):
            with pytest.raises(StoreError, match="/no/such/program cannot be started"):
                await aws.credentials()
        path.write_text(f"[default]\n# another one\ncredential_process = {tmp_path / 'new'}\n")
        assert await aws.credentials() is first
        assert first is not None
        assert (await first.get_frozen_credentials()).token == "new"
    assert log.read_text().split() == ["old", "new"]
