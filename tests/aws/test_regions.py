"""EC2's certificate: which one a region needs, where it is looked for, and a word when it is another."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.hashes import SHA1

from amistream.aws import regions
from amistream.aws.regions import KnownCertificate, find_ec2_certificate, known_certificate, on_aws, partition_of
from amistream.aws.session import Aws
from amistream.errors import RefusedError
from amistream.keys import load_certificate
from amistream.settings import Settings

if TYPE_CHECKING:
    from support.keys import KeyRing


@pytest.mark.parametrize(
    ("region", "partition"),
    [
        ("us-east-1", "aws"),
        ("cn-north-1", "aws-cn"),
        ("us-gov-west-1", "aws-us-gov"),
        ("eusc-de-east-1", "aws-eusc"),
        ("us-east-3", ""),
        ("", ""),
    ],
)
def test_who_runs_a_region(region: str, partition: str) -> None:
    """Each region that there is belongs to one part of AWS, and a made-up one to none."""
    assert partition_of(region) == partition


@pytest.mark.parametrize(
    ("region", "file"),
    [
        ("us-east-1", "cert-ec2.pem"),
        ("us-west-2", "cert-ec2.pem"),
        ("eu-central-1", "cert-ec2.pem"),
        ("ap-southeast-2", "cert-ec2.pem"),
        ("sa-east-1", "cert-ec2.pem"),
        ("us-gov-west-1", "cert-ec2-gov.pem"),
        ("us-gov-east-1", "cert-ec2-gov.pem"),
        ("cn-north-1", "cert-ec2-cn-north-1.pem"),
        ("cn-northwest-1", "cert-ec2-cn-north-1.pem"),
    ],
)
def test_partitions(region: str, file: str) -> None:
    """A region has the certificate of its partition; us-gov is not one of us."""
    known = known_certificate(region)
    assert known is not None
    assert known.file_name == file
    assert len(bytes.fromhex(known.fingerprint)) == 20


@pytest.mark.parametrize("region", ["", "mars-north-1", "us", "RegionOne"])
def test_unknown_partition(region: str) -> None:
    """A region of no known partition has no certificate."""
    assert known_certificate(region) is None


@pytest.fixture
def home(tmp_path: Path, key_ring: KeyRing, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installation of Amazon's tools that holds a certificate of ours; returns the certificate's path."""
    folder = tmp_path / "etc" / "ec2" / "amitools"
    folder.mkdir(parents=True)
    monkeypatch.setenv("EC2_AMITOOL_HOME", str(tmp_path))
    return Path(shutil.copy(key_ring.stranger.certificate, folder / "cert-ec2.pem"))


def fingerprint(path: Path) -> bytes:
    return load_certificate(path, field="certificate").fingerprint(SHA1())  # noqa: S303 - a name, not a protection


def found(region: str, explicit: Path | None = None, configured: dict[str, Path] | None = None) -> tuple[bytes, str]:
    certificate, notice = find_ec2_certificate(region, explicit=explicit, configured=configured or {})
    return certificate.fingerprint(SHA1()), notice  # noqa: S303 - a name, not a protection


def test_order(home: Path, key_ring: KeyRing) -> None:
    """An explicit file goes over the region's configured one, that over the default, that over what is installed."""
    user, ec2, stranger = key_ring.user.certificate, key_ring.ec2.certificate, home
    configured = {"eu-west-1": ec2, "default": user}
    assert found("eu-west-1", stranger, configured)[0] == fingerprint(stranger)
    assert found("eu-west-1", None, configured)[0] == fingerprint(ec2)
    assert found("eu-west-2", None, configured)[0] == fingerprint(user)
    assert found("eu-west-2", None, {"eu-west-1": ec2})[0] == fingerprint(stranger)


def test_notice(home: Path, key_ring: KeyRing) -> None:
    """A certificate that is not the one EC2 uses there is taken, with a notice that names both."""
    notice = found("eu-west-1")[1]
    assert notice == (
        f"the EC2 certificate {home} is not cert-ec2.pem, which EC2 uses in eu-west-1; "
        "only the owner of its key can decrypt the bundle"
    )
    path = key_ring.user.certificate
    for region, words in (("mars-1", "mars-1"), ("", "this region")):
        assert found(region, path)[1] == (
            f"the EC2 certificate {path} is not one known for {words}; only the owner of its key can decrypt the bundle"
        )


def test_no_notice(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The very certificate that a region needs is taken without a word."""
    known = KnownCertificate("cert-ec2.pem", fingerprint(home).hex())
    monkeypatch.setitem(regions._BY_PREFIX, "test-", known)
    assert found("test-1") == (fingerprint(home), "")
    assert found("test-1", explicit=home) == (fingerprint(home), "")


def test_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error for a missing certificate names every place in the order of the search, and the fix."""
    if any(Path(folder, "cert-ec2-gov.pem").exists() for folder in regions._FOLDERS):
        pytest.skip("EC2's certificates are installed on this machine")
    system = "/etc/ec2/amitools/cert-ec2-gov.pem, /usr/share/euca2ools/certs/cert-ec2-gov.pem"
    monkeypatch.delenv("EC2_AMITOOL_HOME", raising=False)
    with pytest.raises(RefusedError) as caught:
        find_ec2_certificate("us-gov-west-1", explicit=None, configured={})
    assert caught.value.code == "ec2_certificate.missing"
    assert caught.value.message == f"cannot find EC2's certificate for us-gov-west-1: searched {system}"
    assert caught.value.hint.splitlines()[:3] == [
        "get cert-ec2-gov.pem with Amazon's ec2-ami-tools:",
        "curl -O https://s3.amazonaws.com/ec2-downloads/ec2-ami-tools.zip",
        "unzip -j ec2-ami-tools.zip '*/etc/ec2/amitools/cert-ec2*.pem' -d /etc/ec2/amitools/",
    ]
    monkeypatch.setenv("EC2_AMITOOL_HOME", str(tmp_path))
    with pytest.raises(RefusedError, match=f"searched {tmp_path}/etc/ec2/amitools/cert-ec2-gov.pem, /etc/ec2"):
        find_ec2_certificate("us-gov-west-1", explicit=None, configured={})


@pytest.mark.parametrize(
    ("region", "why"), [("mars-1", "region mars-1 is in no known partition"), ("", "no region is known")]
)
def test_unknown_region(region: str, why: str) -> None:
    """Without a known region or a given file there is nothing to choose by, and the error says so."""
    with pytest.raises(RefusedError) as caught:
        find_ec2_certificate(region, explicit=None, configured={})
    assert caught.value.code == "ec2_certificate.unknown_region"
    assert caught.value.message == f"cannot choose EC2's certificate: {why}"


def test_given_and_missing(tmp_path: Path, home: Path) -> None:
    """A given file that is not there is an error; nothing else is taken in its place."""
    assert home.exists()
    with pytest.raises(RefusedError) as caught:
        find_ec2_certificate("eu-west-1", explicit=tmp_path / "none.pem", configured={})
    assert (caught.value.code, caught.value.field) == ("ec2_certificate.unreadable", "ec2_certificate")


@pytest.mark.parametrize(
    ("region", "host"),
    [
        ("eu-west-1", "amazonaws.com"),
        ("us-gov-west-1", "amazonaws.com"),
        ("cn-north-1", "amazonaws.com.cn"),
        ("us-iso-east-1", "c2s.ic.gov"),
        ("eusc-de-east-1", "amazonaws.eu"),
    ],
)
async def test_the_addresses_of_every_partition(region: str, host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each partition's addresses are AWS's own, where AWS's rules hold."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAFORATEST")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret-of-a-test")
    async with Aws(Settings()) as aws:
        for service in ("s3", "ec2", "sts"):
            url = (await aws.client(service, region, "")).meta.endpoint_url
            assert (url.endswith(f".{host}"), on_aws(url)) == (True, True)
    for other in ("http://127.0.0.1:4566", "https://amazonaws.com.example", "https://s3.example.com"):
        assert not on_aws(other)


@pytest.mark.parametrize(
    ("arn", "region"),
    [
        ("arn:aws:iam::123456789012:role/r", "us-east-1"),
        ("arn:aws-us-gov:iam::123456789012:role/r", "us-gov-west-1"),
        ("arn:aws-cn:iam::123456789012:role/r", "cn-north-1"),
        ("", "us-east-1"),
    ],
)
async def test_the_first_region(arn: str, region: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no region is named, the partition of the role gives one in which its keys are known."""
    monkeypatch.setenv("AWS_ROLE_ARN", arn)
    async with Aws(Settings()) as aws:
        assert await aws.first_region() == region
