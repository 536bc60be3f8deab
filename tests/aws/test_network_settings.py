"""Certificates and proxies that the environment sets: what no request could use is refused before the first one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from amistream.aws.session import Aws
from amistream.errors import RefusedError
from amistream.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

    from support.tls import Authority

PASSWORD = "a-password-of-a-test"


@pytest.fixture(autouse=True)
def _keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAFORATEST")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret-of-a-test")
    for name in ("no_proxy", "NO_PROXY", "http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)


async def connect(url: str = "https://s3.example.com") -> None:
    async with Aws(Settings()) as aws:
        await aws.client("s3", "eu-west-1", url)


@pytest.mark.parametrize(
    ("content", "why"),
    [(None, "No such file or directory"), (b"", "it has no certificate"), (b"\xff\x00", "it has no certificate")],
)
@pytest.mark.parametrize("place", ["AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "profile"])
async def test_a_bundle_without_certificates(
    content: bytes | None, why: str, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CA certificates that cannot be loaded are named, with what names them."""
    bundle = tmp_path / "ca.pem"
    if content is not None:
        bundle.write_bytes(content)
    if place == "profile":
        (tmp_path / "config").write_text(f"[default]\nca_bundle = {bundle}\n")
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    else:
        monkeypatch.setenv(place, str(bundle))
    with pytest.raises(RefusedError, match=f"{bundle}, which .*{place} .*names: {why}") as caught:
        await connect()
    assert caught.value.code == "aws.ca_bundle"


async def test_a_directory_of_certificates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory, which other programs take, is refused: the SDK reads a file."""
    monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path))
    with pytest.raises(RefusedError, match="names: it is a directory"):
        await connect()


@pytest.mark.parametrize("name", ["AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"])
async def test_a_bundle_without_name(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty variable, which some SDKs take for no verification, is named."""
    monkeypatch.setenv(name, " ")
    with pytest.raises(RefusedError, match=f"{name} .*names: it is empty"):
        await connect()


async def test_a_bundle_of_certificates(tls_authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of certificates is taken."""
    monkeypatch.setenv("AWS_CA_BUNDLE", str(tls_authority.ca_bundle))
    await connect()


@pytest.mark.parametrize(
    ("proxy", "why"),
    [
        (f"socks5://me:{PASSWORD}@proxy:1080", "the SDK has no proxies of the kind socks5"),
        (f"http://me:{PASSWORD}@proxy:port", "its port is not a number"),
        (f"me:{PASSWORD}@proxy:99999", "its port is not a number"),
        ("http://", "it names no host"),
        ("http://[::1", "its host has no valid address"),
        (f"http://me:{PASSWORD} @proxy:3128", "it has blanks"),
        ("http://proxy:3128\n", "it has blanks"),
    ],
)
@pytest.mark.parametrize("name", ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY"])
async def test_a_proxy_that_cannot_be_one(name: str, proxy: str, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable is named, and its password is not shown; other endpoints and hosts in NO_PROXY are not touched."""
    monkeypatch.setenv(name, proxy)
    scheme, other = ("http", "https") if name == "HTTP_PROXY" else ("https", "http")
    with pytest.raises(RefusedError, match=f"cannot use the proxy in {name}: .*{why}") as caught:
        await connect(f"{scheme}://s3.example.com")
    assert caught.value.code == "aws.proxy"
    assert PASSWORD not in str(caught.value)
    await connect(f"{other}://s3.example.com")
    monkeypatch.setenv("NO_PROXY", "example.com")
    await connect(f"{scheme}://s3.example.com")


@pytest.mark.parametrize(
    "proxy", [f"http://me:{PASSWORD}@proxy:3128", "proxy:3128", "//10.0.0.1", "https://[::1]:3128/"]
)
async def test_a_proxy(proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every form that the SDK understands is a proxy."""
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    await connect()
