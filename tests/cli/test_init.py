"""The command `init`: what it makes, that it changes nothing which is there, and what it tells."""

from __future__ import annotations

import json
import re
import sys
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.hashes import SHA1

from amistream.aws import regions
from amistream.aws.iam_policy import iam_policy
from amistream.cli.commands import init as command
from amistream.cli.set_up import MakeFile, carry_out
from amistream.keys import load_certificate, load_identity
from amistream.settings import load
from cli.running import Cli

if TYPE_CHECKING:
    from conftest import MakeBucket
    from support.endpoints import Endpoint
    from support.keys import KeyRing

ROOT = Path(__file__).parents[2]


@pytest.fixture
def ami_tools(tmp_path: Path, key_ring: KeyRing, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An archive as Amazon's, with a certificate that counts as EC2's here, and with another one."""
    ours = load_certificate(key_ring.ec2.certificate, field="x")
    known = regions.KnownCertificate("cert-ec2.pem", ours.fingerprint(SHA1()).hex())  # noqa: S303 - a name
    monkeypatch.setattr(regions, "_BY_PREFIX", {"us-": known, "eu-": known})
    path = tmp_path / "ec2-ami-tools.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("tools/etc/ec2/amitools/cert-ec2-gov.pem", key_ring.stranger.certificate.read_bytes())
        archive.writestr("tools/etc/ec2/amitools/../../../../cert-ec2.pem", key_ring.ec2.certificate.read_bytes())
        archive.writestr("tools/notes.pem", "no certificate")
    return path


async def outcomes(cli: Cli, *words: str) -> tuple[list[str], dict[str, Any]]:
    outcome = await cli("init", *words, "--json")
    told = json.loads(outcome.stdout)
    return [step["outcome"] for step in told["steps"]], told


async def test_a_set_up_of_ones_own(
    *,
    cli: Cli,
    ami_tools: Path,
    moto_server: Endpoint,
    make_bucket: MakeBucket,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Keys, certificate and configuration are made once, are usable, and stay as they are without --force."""
    bucket = make_bucket(moto_server)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for name, value in {**moto_server.environ(), "AWS_ENDPOINT_URL": moto_server.url}.items():
        monkeypatch.setenv(name, value)
    words = ("--user", "--bucket", f"s3://{bucket}/images/", "--ami-tools", str(ami_tools))
    config = tmp_path / "config" / "amistream" / "amistream.toml"

    assert (await outcomes(cli, *words, "--dry-run"))[0] == ["would make"] * 3
    assert not config.parent.exists()
    # A package has the template there.
    config.parent.mkdir(parents=True)
    config.write_bytes((ROOT / "config" / "amistream.toml").read_bytes())
    made, told = await outcomes(cli, *words)
    assert made == ["made"] * 3
    failed = [finding["name"] for finding in told["findings"] if finding["status"] == "failed"]
    assert failed == []
    assert {finding["name"] for finding in told["findings"]} > {"bucket", "acls", "probe", "ec2_certificate"}
    assert told["policy"] == iam_policy("aws", bucket)
    settings = load(config)
    state = settings.state_dir
    load_identity(state / "user-certificate.pem", state / "user-private-key.pem")
    assert (state / "user-private-key.pem").stat().st_mode & 0o777 == 0o600
    assert settings.ec2_certificates["default"].parent == config.parent
    before = config.read_bytes()
    again = (await cli("init", *words)).stdout
    assert [line.split()[0] for line in again.splitlines()[:3]] == ["ok"] * 3
    assert ("0 failed" in again, f"export AMISTREAM_CONFIG={config}" in again) == (True, True)
    assert config.read_bytes() == before
    config.write_bytes(before + b"max_jobs = 1\n")
    assert (await outcomes(cli, *words, "--dry-run"))[0] == ["ok", "ok", "kept"]
    assert (await outcomes(cli, *words, "--dry-run", "--force"))[0] == ["ok", "ok", "would replace"]
    assert load(config).max_jobs == 1
    step = MakeFile(about="", path=config, content=before)
    assert [outcome for _, outcome in carry_out([step], force=True, dry_run=False)] == ["replaced"]
    assert config.read_bytes() == before


async def test_a_set_up_of_the_system(
    cli: Cli, ami_tools: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As root the units are written too, with the path of this daemon, and a group gets the socket."""
    monkeypatch.setattr(command, "DEFAULT_CONFIG", tmp_path / "etc/amistream/amistream.toml")
    monkeypatch.setattr(command, "_SYSTEM_CERTIFICATES", tmp_path / "etc/ec2/amitools")
    monkeypatch.setattr(command, "_ROOT", tmp_path)
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "opt" / "amistream")])
    (tmp_path / "opt").mkdir()
    (tmp_path / "opt" / "amistreamd").touch()
    words = ("--system", "--group", "root", "--region", "us-gov-west-1", "--ami-tools", str(ami_tools))
    made, told = await outcomes(cli, *words)
    assert made == ["ok", *["made"] * 6]
    assert f"ExecStart={tmp_path}/opt/amistreamd\n" in (tmp_path / "etc/systemd/system/amistream.service").read_text()
    assert (tmp_path / "etc/systemd/system/amistream.socket.d/group.conf").read_text() == "[Socket]\nSocketGroup=root\n"
    assert load(tmp_path / "etc/amistream/amistream.toml").socket_group == "root"
    assert (tmp_path / "etc/ec2/amitools/cert-ec2.pem").exists()
    assert told["policy"]["Statement"][0]["Resource"] == "arn:aws-us-gov:s3:::BUCKET"
    assert (await outcomes(cli, *words))[0] == ["ok"] * 7


async def test_no_certificate(cli: Cli, ami_tools: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An archive without EC2's certificate is refused before anything is made; without one the fix is told."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    with zipfile.ZipFile(ami_tools, "w") as archive:
        archive.writestr("cert-ec2.pem", "-----BEGIN CERTIFICATE-----")
    words = ("--user", "--region", "us-west-2")
    refused = await cli("init", *words, "--ami-tools", str(ami_tools))
    assert (refused.status, "cannot find EC2's cert-ec2.pem in" in refused.stderr) == (3, True)
    ami_tools.write_bytes(ami_tools.read_bytes()[:-30] + b"PK")
    assert (await cli("init", *words, "--ami-tools", str(ami_tools))).status == 3
    assert not (tmp_path / "config").exists()
    lacking = await cli("init", *words, "--dry-run")
    assert "curl -O https://s3.amazonaws.com/ec2-downloads/ec2-ami-tools.zip" in lacking.stdout


def test_the_policy_is_that_of_the_manual() -> None:
    """The page about permissions has the policy that `init` prints."""
    shown = re.search(r"```json\n(.*?)```", (ROOT / "docs/permissions.md").read_text(), re.DOTALL)
    assert shown is not None
    assert json.loads(shown[1]) == iam_policy("aws", "BUCKET")


async def test_a_key_pair_that_the_variables_name(
    cli: Cli, key_ring: KeyRing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pair of EC2_CERT and EC2_PRIVATE_KEY goes into the configuration, and no other is made."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("EC2_CERT", str(key_ring.user.certificate))
    monkeypatch.setenv("EC2_PRIVATE_KEY", str(key_ring.user.key))
    made, _ = await outcomes(cli, "--user", "--region", "eu-west-1", "--endpoint-url", "http://127.0.0.1:9")
    settings = load(tmp_path / "amistream" / "amistream.toml")
    assert made == ["ok", "made"]
    assert (settings.certificate, settings.private_key) == (key_ring.user.certificate, key_ring.user.key)
    assert not (settings.state_dir / "user-private-key.pem").exists()
