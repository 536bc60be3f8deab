"""The fault proxy passes requests unchanged, and breaks those of its script."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import TYPE_CHECKING

import pytest
from aiohttp import ClientError as HttpClientError
from botocore.exceptions import BotoCoreError, ClientError

from support.buckets import list_keys
from support.proxy import (
    Answer,
    DropReply,
    Fault,
    HoldReply,
    Reset,
    Slow,
    StallBody,
    dry_run_answered,
)

if TYPE_CHECKING:
    from conftest import MakeBucket, MakeProxy
    from support.endpoints import Endpoint

BODY = os.urandom(3 << 20)
# aiohttp itself sends a PUT once more when the connection ends without a reply: such faults come in twos.
BROKEN = (BotoCoreError, HttpClientError, OSError)


async def test_passes_unchanged(endpoint: Endpoint, make_bucket: MakeBucket, make_proxy: MakeProxy) -> None:
    """Objects go up and down through the proxy, signatures hold, and every request is on record."""
    bucket = make_bucket(endpoint)
    proxy = make_proxy(endpoint)
    async with proxy.endpoint.client() as s3:
        await s3.put_object(Bucket=bucket, Key="a", Body=BODY, ACL="aws-exec-read")
        answer = await s3.get_object(Bucket=bucket, Key="a")
        async with answer["Body"] as body:
            assert await body.read() == BODY
        await s3.head_object(Bucket=bucket, Key="a")
        with pytest.raises(ClientError):
            await s3.get_object(Bucket=bucket, Key="absent")
        await s3.list_objects_v2(Bucket=bucket, Prefix="a")
        await s3.delete_object(Bucket=bucket, Key="a")
    assert [(r.method, r.status) for r in proxy.requests] == [
        ("PUT", 200),
        ("GET", 200),
        ("HEAD", 200),
        ("GET", 404),
        ("GET", 200),
        ("DELETE", 204),
    ]
    (put,) = proxy.seen("PUT")
    assert put.path == f"/{bucket}/a"
    assert put.headers["x-amz-acl"] == "aws-exec-read"
    assert put.body_size == len(BODY)
    assert proxy.requests[4].parameters["prefix"] == "a"


async def test_sdk_trailer_passes(seaweedfs: Endpoint, make_bucket: MakeBucket, make_proxy: MakeProxy) -> None:
    """A body in aws-chunked form with a trailing checksum arrives whole."""
    bucket = make_bucket(seaweedfs)
    proxy = make_proxy(seaweedfs)
    async with proxy.endpoint.client(request_checksum_calculation="when_supported") as s3:
        await s3.put_object(Bucket=bucket, Key="a", Body=BODY)
        assert (await s3.head_object(Bucket=bucket, Key="a"))["ContentLength"] == len(BODY)


async def test_answers_by_count(seaweedfs: Endpoint, make_bucket: MakeBucket, make_proxy: MakeProxy) -> None:
    """The second and third PUT meet SlowDown, before and after them all is well."""
    bucket = make_bucket(seaweedfs)
    slow_down = Fault(action=Answer(status=503, code="SlowDown"), nth=2, times=2)
    proxy = make_proxy(seaweedfs, slow_down)
    codes = []
    async with proxy.endpoint.client() as s3:
        for key in "abcd":
            try:
                await s3.put_object(Bucket=bucket, Key=key, Body=BODY)
                codes.append("")
            except ClientError as error:
                codes.append(error.response["Error"]["Code"])
    assert codes == ["", "SlowDown", "SlowDown", ""]
    assert list_keys(seaweedfs, bucket) == ["a", "d"]
    assert [r.body_size for r in proxy.requests] == [len(BODY)] * 4


async def test_early_answer(seaweedfs: Endpoint, make_bucket: MakeBucket, make_proxy: MakeProxy) -> None:
    """An answer may come in place of 100-continue, and the next request takes a new connection."""
    bucket = make_bucket(seaweedfs)
    proxy = make_proxy(seaweedfs, Fault(action=Answer(status=500, code="InternalError", early=True)))
    async with proxy.endpoint.client() as s3:
        with pytest.raises(ClientError, match="InternalError"):
            await s3.put_object(Bucket=bucket, Key="a", Body=BODY)
        await s3.put_object(Bucket=bucket, Key="a", Body=BODY)
    assert [(r.status, r.upstream_status) for r in proxy.requests] == [(500, None), (200, 200)]


async def test_refusal_passes_early(seaweedfs: Endpoint, make_proxy: MakeProxy) -> None:
    """A refusal that the endpoint sends before it has the body reaches the client."""
    proxy = make_proxy(seaweedfs)
    async with proxy.endpoint.client() as s3:
        with pytest.raises(ClientError, match="NoSuchBucket"):
            await s3.put_object(Bucket="there-is-no-such-bucket", Key="a", Body=BODY)
    assert proxy.requests[0].status == 404


@pytest.mark.parametrize("after", [0, 100_000])
async def test_stall(after: int, seaweedfs: Endpoint, make_bucket: MakeBucket, make_proxy: MakeProxy) -> None:
    """A stalled upload hangs until the client gives up; the endpoint has nothing."""
    bucket = make_bucket(seaweedfs)
    stall = Fault(action=StallBody(after=after))
    proxy = make_proxy(seaweedfs, stall)
    async with proxy.endpoint.client() as s3:
        put = asyncio.create_task(s3.put_object(Bucket=bucket, Key="a", Body=BODY))
        await asyncio.to_thread(proxy.wait_hit, stall)
        assert not put.done()
        put.cancel()
        with pytest.raises(asyncio.CancelledError):
            await put
    assert list_keys(seaweedfs, bucket) == []
    assert after <= proxy.requests[0].body_size < len(BODY)
    assert proxy.requests[0].status is None


@pytest.mark.parametrize("name", ["seaweedfs", "seaweedfs_https"])
async def test_reset(name: str, request: pytest.FixtureRequest, make_bucket: MakeBucket, make_proxy: MakeProxy) -> None:
    """A connection that is reset in the body gives an error of the transport."""
    endpoint: Endpoint = request.getfixturevalue(name)
    bucket = make_bucket(endpoint)
    proxy = make_proxy(endpoint, Fault(action=Reset(after=50_000), times=2))
    async with proxy.endpoint.client() as s3:
        with pytest.raises(BROKEN):
            await s3.put_object(Bucket=bucket, Key="a", Body=BODY)
    assert list_keys(endpoint, bucket) == []


async def test_dropped_reply(seaweedfs: Endpoint, make_bucket: MakeBucket, make_proxy: MakeProxy) -> None:
    """The object is there although the client saw only a closed connection."""
    bucket = make_bucket(seaweedfs)
    proxy = make_proxy(seaweedfs, Fault(action=DropReply(), times=2))
    async with proxy.endpoint.client() as s3:
        with pytest.raises(BROKEN):
            await s3.put_object(Bucket=bucket, Key="a", Body=BODY)
    assert list_keys(seaweedfs, bucket) == ["a"]
    assert (proxy.requests[0].status, proxy.requests[0].upstream_status) == (None, 200)


async def test_held_reply(seaweedfs: Endpoint, make_bucket: MakeBucket, make_proxy: MakeProxy) -> None:
    """The object is there while the client still waits for the reply."""
    bucket = make_bucket(seaweedfs)
    hold = Fault(action=HoldReply())
    proxy = make_proxy(seaweedfs, hold)
    async with proxy.endpoint.client() as s3:
        put = asyncio.create_task(s3.put_object(Bucket=bucket, Key="a", Body=BODY))
        await asyncio.to_thread(proxy.wait_hit, hold)
        assert list_keys(seaweedfs, bucket) == ["a"]
        assert not put.done()
        put.cancel()
        with pytest.raises(asyncio.CancelledError):
            await put


async def test_slow(seaweedfs: Endpoint, make_bucket: MakeBucket, make_proxy: MakeProxy) -> None:
    """A slow connection takes the time its rate asks for, and the object arrives."""
    bucket = make_bucket(seaweedfs)
    proxy = make_proxy(seaweedfs, Fault(action=Slow(bytes_per_second=20 << 20)))
    loop = asyncio.get_running_loop()
    async with proxy.endpoint.client() as s3:
        begin = loop.time()
        await s3.put_object(Bucket=bucket, Key="a", Body=BODY)
        assert loop.time() - begin > len(BODY) / (20 << 20)


def test_dry_run(moto_server: Endpoint, make_proxy: MakeProxy) -> None:
    """EC2 requests are matched by their form, and answered in EC2's way."""
    proxy = make_proxy(moto_server, dry_run_answered())
    with proxy.endpoint.blocking_client("ec2") as ec2:
        with pytest.raises(ClientError, match="DryRunOperation"):
            ec2.deregister_image(ImageId="ami-1", DryRun=True)
        assert ec2.describe_images(Owners=["self"])["Images"] == []
    assert [r.parameters["Action"] for r in proxy.requests] == ["DeregisterImage", "DescribeImages"]


def test_rubbish(moto_server: Endpoint, make_proxy: MakeProxy) -> None:
    """Garbage and a client that leaves in a head end that connection and no other."""
    proxy = make_proxy(moto_server)
    port = int(proxy.url.rpartition(":")[2])
    for rubbish in (b"rubbish\r\n\r\n", b"PUT / HT"):
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(rubbish)
            connection.shutdown(socket.SHUT_WR)
            assert connection.recv(100) == b""
    with proxy.endpoint.blocking_client() as s3:
        assert "Buckets" in s3.list_buckets()
