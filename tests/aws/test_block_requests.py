"""Puts and gets of blocks on the wire, compared with the SDK's own."""

from __future__ import annotations

import asyncio
import datetime as dt
import re
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from amistream.aws.block_requests import BlockRequests
from amistream.aws.ebs import open_ebs
from amistream.aws.session import Aws
from amistream.errors import StoreError
from amistream.ports.snapshots import BLOCK, StoredBlock
from amistream.settings import Settings
from amistream.values import AccessKeys
from aws.canned import Canned, Reply
from aws.snapshots import block, order, snapshots_of_url

if TYPE_CHECKING:
    from pathlib import Path

    from support.ebs_endpoint import EbsEndpoint
    from support.tls import Authority

SNAPSHOT = "snap-0123456789abcdef0"
TOKEN = "AAUB+AcBjq/Gn0=~-_. "


class Recorder:
    """A server that keeps each request and answers 500."""

    def __init__(self) -> None:
        self.heads: list[str] = []
        self.bodies: list[bytes] = []
        self.closed = asyncio.Event()

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                self.heads.append(head)
                length = re.search(r"content-length: (\d+)", head, re.IGNORECASE)
                self.bodies.append(await reader.readexactly(int(length[1]) if length else 0))
                writer.write(b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            self.closed.set()
        finally:
            writer.close()


@asynccontextmanager
async def recording() -> AsyncIterator[tuple[Recorder, str]]:
    recorder = Recorder()
    server = await asyncio.start_server(recorder.accept, "127.0.0.1", 0)
    try:
        yield recorder, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


def as_comparable(head: str) -> tuple[str, dict[str, str]]:
    """Request line and headers, without what differs between any two requests of the SDK."""
    first, *lines = head.strip().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    assert headers.pop("amz-sdk-request", "attempt=1") == "attempt=1"
    headers.pop("amz-sdk-invocation-id", None)
    headers["User-Agent"] = re.sub(r" m/\S+", "", headers["User-Agent"])  # which features of the SDK were used
    headers["Authorization"] = re.sub(r"Signature=\w{64}$", "", headers["Authorization"])
    headers["X-Amz-Date"] = re.sub(r"\d{6}Z$", "", headers["X-Amz-Date"])
    return first, headers


@pytest.mark.parametrize("token", [None, "IQoJb3JpZ2luX2VjEOz//////////wEaCXVzLWVhc3Q"])
@pytest.mark.parametrize("path", ["", "/ebs/"])
async def test_the_request_of_the_sdk(token: str | None, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A put and a get are on the wire what the SDK sends: method, path, query, headers, signature, and body."""
    now = dt.datetime.now(dt.UTC).replace(tzinfo=None)
    monkeypatch.setattr("botocore.auth.get_current_datetime", lambda *_, **__: now)
    keys = AccessKeys(access_key="AKIAIOSFODNN7EXAMPLE", secret_key="secret", token=token)
    data, digest = block(9)
    async with recording() as (recorder, url), Aws(Settings(), keys) as aws:
        client = await aws.client("ebs", "eu-west-1", url + path)
        ours = BlockRequests(client, await aws.signing_credentials("eu-west-1"))
        calls: list[Any] = [
            client.put_snapshot_block(
                SnapshotId=SNAPSHOT,
                BlockIndex=9,
                BlockData=data,
                DataLength=BLOCK,
                Checksum=b64encode(digest).decode(),
                ChecksumAlgorithm="SHA256",
            ),
            ours.put(SNAPSHOT, 9, memoryview(bytearray(data)), digest),
            client.get_snapshot_block(SnapshotId=SNAPSHOT, BlockIndex=9, BlockToken=TOKEN),
            ours.get(SNAPSHOT, 9, TOKEN),
        ]
        for call in calls:
            with pytest.raises(client.exceptions.ClientError):
                await call
    of_sdk, of_ours, get_of_sdk, get_of_ours = recorder.heads
    assert as_comparable(of_ours) == as_comparable(of_sdk)
    assert as_comparable(get_of_ours) == as_comparable(get_of_sdk)
    assert recorder.bodies == [data, data, b"", b""]
    # The time stands still: the signatures, of the same request, are the same.
    for mine, theirs in ((of_ours, of_sdk), (get_of_ours, get_of_sdk)):
        assert re.findall(r"Signature=(\w{64})", mine) == re.findall(r"Signature=(\w{64})", theirs)
    assert ("x-amz-security-token" in of_ours.split("SignedHeaders=")[1]) is (token is not None)


async def test_signatures_of_another_day_and_snapshot(monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts after midnight, and of another snapshot, have the signatures of the SDK, too."""
    now = dt.datetime(2026, 11, 29, 23, 59, 58)  # noqa: DTZ001 - as the SDK has it
    monkeypatch.setattr("botocore.auth.get_current_datetime", lambda *_, **__: now)
    keys = AccessKeys(access_key="AKIAIOSFODNN7EXAMPLE", secret_key="secret", token=None)
    data, digest = block(0)
    async with recording() as (recorder, url), Aws(Settings(), keys) as aws:
        client = await aws.client("ebs", "eu-west-1", url)
        ours = BlockRequests(client, await aws.signing_credentials("eu-west-1"))
        for snapshot, index, later_s in ((SNAPSHOT, 1, 0), (SNAPSHOT, 20, 1), (SNAPSHOT, 3, 1), ("snap-1", 4, 1)):
            now += dt.timedelta(seconds=later_s)
            for call in (
                client.put_snapshot_block(
                    SnapshotId=snapshot,
                    BlockIndex=index,
                    BlockData=data,
                    DataLength=BLOCK,
                    Checksum=b64encode(digest).decode(),
                    ChecksumAlgorithm="SHA256",
                ),
                ours.put(snapshot, index, data, digest),
            ):
                with pytest.raises(client.exceptions.ClientError):
                    await call
    for theirs, mine in zip(recorder.heads[::2], recorder.heads[1::2], strict=True):
        assert re.findall(r"Signature=(\w{64})", mine) == re.findall(r"Signature=(\w{64})", theirs)
    assert len({head.split("Credential=")[1].split("/")[1] for head in recorder.heads}) == 2


async def test_signatures_hold(ebs_endpoint: EbsEndpoint) -> None:
    """The double, which checks every signature, accepts that of a put, and refuses one with another secret."""
    keys = AccessKeys(access_key=ebs_endpoint.access_key, secret_key="another", token=None)
    async with Aws(Settings(), keys) as aws:
        ebs = await open_ebs(aws, ebs_endpoint.region, ebs_endpoint.url, 60)
        with pytest.raises(StoreError, match="the secret key does not match"):
            await ebs.put(SNAPSHOT, 0, *block(0))


async def test_credentials_that_renew_themselves(
    ebs_endpoint: EbsEndpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each put is signed with the keys that the provider chain has then, not with those of the first."""
    config, keys = tmp_path / "config", tmp_path / "keys.json"
    config.write_text(f"[default]\ncredential_process = cat {keys}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))

    def give(secret: str, expires: str) -> None:
        made = {"Version": 1, "AccessKeyId": ebs_endpoint.access_key, "SecretAccessKey": secret, "Expiration": expires}
        keys.write_text(str(made).replace("'", '"'))

    give(ebs_endpoint.secret_key, "2999-01-01T00:00:00Z")
    async with Aws(Settings()) as aws:
        ebs = await open_ebs(aws, ebs_endpoint.region, ebs_endpoint.url, 60)
        made = (await ebs.start(order("renewed"))).id
        await ebs.put(made, 0, *block(0))
        ebs_endpoint.set(secret_key="renewed")
        give("renewed", "2999-01-01T00:00:00Z")
        credentials = await aws.signing_credentials("")
        assert credentials is not None
        credentials._inner._expiry_time = credentials._inner._expiry_time.replace(year=2000)
        await ebs.put(made, 1, *block(1))


async def test_no_credentials(ebs_endpoint: EbsEndpoint) -> None:
    """A put without credentials says which ways there are to give some."""
    async with Aws(Settings()) as aws:
        ebs = await open_ebs(aws, ebs_endpoint.region, ebs_endpoint.url, 60)
        with pytest.raises(StoreError) as caught:
            await ebs.put(SNAPSHOT, 0, *block(0))
    assert caught.value.code == "aws.credentials"


async def test_a_cancel_closes_the_connection() -> None:
    """A put that is cancelled while its answer is awaited ends its connection."""
    began, ended = asyncio.Event(), asyncio.Event()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(BLOCK)
        began.set()
        assert await reader.read() == b""
        ended.set()
        writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    async with server, snapshots_of_url(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}") as ebs:
        put = asyncio.create_task(ebs.put(SNAPSHOT, 0, *block(0)))
        await began.wait()
        put.cancel()
        with pytest.raises(asyncio.CancelledError):
            await put
        await ended.wait()


@pytest.mark.parametrize(
    ("headers", "words"),
    [({}, None), ({"x-amz-Checksum": b64encode(block(0)[1]).decode()}, None), ({"x-amz-Checksum": "AAAA"}, "another")],
)
async def test_the_checksum_of_the_answer(headers: dict[str, str], words: str | None) -> None:
    """An answer to a put that has a checksum has that of the block, or the put failed."""
    async with Canned(Reply(status=201, headers=headers)) as server, snapshots_of_url(server.url) as ebs:
        if words is None:
            await ebs.put(SNAPSHOT, 0, *block(0))
        else:
            with pytest.raises(StoreError, match=words) as caught:
                await ebs.put(SNAPSHOT, 0, *block(0))
            assert caught.value.transient


@pytest.mark.parametrize(
    ("body", "headers", "words"),
    [
        ("short", {"x-amz-Checksum": b64encode(bytes(32)).decode()}, "a block of 5 bytes"),
        ("x" * BLOCK, {}, "no checksum"),
        ("x" * BLOCK, {"x-amz-Checksum": "?"}, "no checksum"),
        ("x" * BLOCK, {"x-amz-Checksum": b64encode(bytes(32)).decode()}, "other bytes"),
    ],
)
async def test_an_answer_that_is_no_block(body: str, headers: dict[str, str], words: str) -> None:
    """An answer to a get that is no block with its checksum is a transient failure."""
    async with Canned(Reply(status=200, body=body, headers=headers)) as server, snapshots_of_url(server.url) as ebs:
        with pytest.raises(StoreError, match=words) as caught:
            await ebs.get(SNAPSHOT, StoredBlock(index=0, token=TOKEN))
    assert caught.value.transient


async def test_redirects_are_not_followed() -> None:
    """A put is sent to the endpoint only, wherever that points."""
    async with recording() as (recorder, url):
        reply = Reply(status=307, headers={"Location": f"{url}/snapshots/{SNAPSHOT}/blocks/0"})
        async with Canned(reply) as server, snapshots_of_url(server.url) as ebs:
            with pytest.raises(StoreError):
                await ebs.put(SNAPSHOT, 0, *block(0))
    assert recorder.heads == []


async def test_certificates_of_the_environment(tls_authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    """A put trusts the CA certificates that the SDK trusts, and no others."""
    async with Canned(Reply(status=201), tls=tls_authority.server_context()) as server:
        async with snapshots_of_url(server.url) as ebs:
            with pytest.raises(StoreError, match="certificate is not trusted"):
                await ebs.put(SNAPSHOT, 0, *block(0))
        monkeypatch.setenv("AWS_CA_BUNDLE", str(tls_authority.ca_bundle))
        async with snapshots_of_url(server.url) as ebs:
            await ebs.put(SNAPSHOT, 0, *block(0))


async def test_proxies_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A put goes through the proxy that the environment names, as the SDK's requests do."""
    for name in ("no_proxy", "NO_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    async with recording() as (proxy, url):
        monkeypatch.setenv("HTTP_PROXY", url)
        async with snapshots_of_url("http://ebs.example.com") as ebs:
            with pytest.raises(StoreError):
                await ebs.put(SNAPSHOT, 0, *block(0))
    target = proxy.heads[0].split()[1]
    assert urlsplit(target).hostname == "ebs.example.com"


@pytest.mark.parametrize("fips", [False, True])
@pytest.mark.parametrize("region", ["eu-west-1", "cn-north-1", "us-gov-west-1"])
async def test_the_endpoint_of_a_region(region: str, fips: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A put is sent to the address that the SDK's rules give for the region."""
    monkeypatch.setenv("AWS_USE_FIPS_ENDPOINT", str(fips).lower())
    async with Aws(Settings()) as aws:
        client = await aws.client("ebs", region, "")
        model = client.meta.service_model.operation_model("PutSnapshotBlock")
        rules = await client._ruleset_resolver.construct_endpoint(
            operation_model=model, call_args={}, request_context={}
        )
        assert client.meta.endpoint_url == rules.url
