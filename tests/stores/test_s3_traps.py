"""Faults between client and S3: a transient one costs an attempt, never the job, and nothing is left behind."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import random
import socket
from contextlib import nullcontext
from typing import TYPE_CHECKING

import pytest

from amistream.aws.buckets import put_probe
from amistream.aws.session import Aws
from amistream.errors import StoreError, TakenError
from amistream.location import S3Location
from amistream.ports.store import NO_CHECKSUM, Stored, whole_checksum
from amistream.settings import Acl, Settings
from amistream.stores.s3.store import S3Store
from amistream.values import MIB
from stores.places import QUICK, s3_store
from support.buckets import list_keys, open_uploads
from support.loop import clock
from support.proxy import Action, Answer, DropReply, Fault, HoldReply, Request, Reset, StallBody

if TYPE_CHECKING:
    from collections.abc import Awaitable
    from pathlib import Path

    from conftest import MakeBucket, MakeProxy
    from support.endpoints import Endpoint

DATA = random.Random(3).randbytes(6 * MIB)
LARGE = random.Random(4).randbytes(16 * MIB)


def sha1(data: bytes) -> bytes:
    return hashlib.sha1(data).digest()


FAULTS: dict[str, Action] = {
    "stops reading": StallBody(after=256 * 1024),
    "withholds 100-continue": StallBody(after=0),
    "resets": Reset(after=MIB),
    "slow down": Answer(status=503, code="SlowDown"),
    "slow down, early": Answer(status=503, code="SlowDown", early=True),
    "internal error": Answer(status=500, code="InternalError"),
    "request timeout": Answer(status=400, code="RequestTimeout"),
    "bad digest": Answer(status=400, code="BadDigest"),
    "reply lost": DropReply(),
    "reply held": HoldReply(),
}


@pytest.mark.parametrize("name", FAULTS)
async def test_a_passing_fault_costs_one_attempt(
    name: str, seaweedfs: Endpoint, make_bucket: MakeBucket, make_proxy: MakeProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a transient fault the second attempt stores the whole object with its checksum."""
    bucket = make_bucket(seaweedfs)
    fault = Fault(action=FAULTS[name], path=".*image.part.00")
    proxy = make_proxy(seaweedfs, fault)
    async with s3_store(proxy.endpoint, bucket, monkeypatch) as store:
        proxy.clock = clock(QUICK.stall_s)
        await store.put("image.part.00", memoryview(DATA), sha1(DATA), lambda _: None)
        stored = await store.stat("image.part.00")
        # The stalled connection closes when its peer ends, and this event loop must notice.
        await asyncio.to_thread(proxy.hang_up)
    assert stored is not None
    assert (stored.size, stored.checksum) == (len(DATA), whole_checksum(sha1(DATA)))
    # The HTTP client itself may repeat a request whose connection ended in the middle.
    assert 2 <= len(proxy.seen("PUT")) <= 3


@pytest.mark.parametrize("name", ["stops reading", "resets", "slow down", "reply lost"])
async def test_a_passing_fault_costs_one_chunk_attempt(
    name: str, seaweedfs: Endpoint, make_bucket: MakeBucket, make_proxy: MakeProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a multipart upload a fault repeats its chunk, not the part."""
    bucket = make_bucket(seaweedfs)
    proxy = make_proxy(seaweedfs, Fault(action=FAULTS[name], query="partNumber=2"))
    async with s3_store(proxy.endpoint, bucket, monkeypatch) as store:
        proxy.clock = clock(QUICK.stall_s)
        await store.put("image.part.00", memoryview(LARGE), sha1(LARGE), lambda _: None)
        await asyncio.to_thread(proxy.hang_up)
    assert len(proxy.seen("PUT", query="partNumber=1(&|$)")) == 1
    with seaweedfs.blocking_client() as s3:
        assert s3.get_object(Bucket=bucket, Key="some/prefix/image.part.00")["Body"].read() == LARGE
    assert open_uploads(seaweedfs, bucket) == []


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (403, "AccessDenied", "access is denied"),
        (400, "AccessControlListNotSupported", "ACLs are disabled"),
        (404, "NoSuchBucket", "no such bucket"),
        (403, "InvalidAccessKeyId", "access key does not exist"),
        (403, "SignatureDoesNotMatch", "secret key does not match"),
        (403, "RequestTimeTooSkewed", "clock differs"),
        (501, "NotImplemented", "does not support"),
    ],
)
async def test_a_lasting_fault_is_not_repeated(
    status: int,
    code: str,
    message: str,
    ministack: Endpoint,
    make_bucket: MakeBucket,
    make_proxy: MakeProxy,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A permanent error ends the put at once, with its cause and remedy."""
    proxy = make_proxy(ministack, Fault(action=Answer(status=status, code=code), path=".*part.00", times=None))
    async with s3_store(proxy.endpoint, make_bucket(ministack), monkeypatch) as store:
        with pytest.raises(StoreError, match=message) as caught:
            await store.put("image.part.00", memoryview(DATA), sha1(DATA), lambda _: None)
    assert caught.value.code == f"aws.{code}"
    assert caught.value.hint
    # What an endpoint may not know is tried without, and what a policy may demand is tried with.
    assert len(proxy.seen("PUT")) == {"NotImplemented": 4, "AccessDenied": 2}.get(code, 1)


async def test_a_fault_that_stays_ends_within_the_bound(
    ministack: Endpoint, make_bucket: MakeBucket, make_proxy: MakeProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the configured number of attempts the last cause is reported, with that number."""
    fault = Fault(action=Answer(status=503, code="SlowDown"), path=".*part.00", times=None)
    proxy = make_proxy(ministack, fault)
    async with s3_store(proxy.endpoint, make_bucket(ministack), monkeypatch) as store:
        with pytest.raises(StoreError, match=r"\(SlowDown\) \(tried 4 times\)"):
            await store.put("image.part.00", memoryview(DATA), sha1(DATA), lambda _: None)
    assert len(proxy.seen("PUT")) == QUICK.attempts


async def test_every_object_carries_acl_checksum_and_condition(
    seaweedfs: Endpoint, make_bucket: MakeBucket, make_proxy: MakeProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each request has the canned ACL, the SHA-1, the no-overwrite condition and a plain, unsigned, single body."""
    proxy = make_proxy(seaweedfs)
    async with s3_store(proxy.endpoint, make_bucket(seaweedfs), monkeypatch) as store:
        await store.put("image.part.00", memoryview(DATA), sha1(DATA), lambda _: None)
        await store.commit("image.manifest.xml", b"<manifest/>", sha1(b"<manifest/>"))
        await store.put("image.part.01", memoryview(LARGE), sha1(LARGE), lambda _: None)
    whole = proxy.seen("PUT", query="^(?!.*partNumber)")
    assert len(whole) == 2
    for request in (*whole, *proxy.seen("POST", query="^uploads")):
        assert request.headers["x-amz-acl"] == "aws-exec-read"
    for request, data in zip(whole, (DATA, b"<manifest/>"), strict=True):
        assert request.headers["x-amz-checksum-sha1"] == base64.b64encode(sha1(data)).decode()
        assert request.headers["if-none-match"] == "*"
        assert request.headers["x-amz-content-sha256"] == "UNSIGNED-PAYLOAD"
        assert "content-encoding" not in request.headers
        assert "content-md5" not in request.headers
        assert request.headers["content-length"] == str(len(data))
    chunks = proxy.seen("PUT", query="partNumber")
    assert len(chunks) == 4
    assert all("x-amz-checksum-sha1" in chunk.headers for chunk in chunks)
    (completed,) = proxy.seen("POST", query="^uploadId")
    assert completed.headers["if-none-match"] == "*"


async def test_payload_is_signed_where_asked(
    seaweedfs: Endpoint, make_bucket: MakeBucket, make_proxy: MakeProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With sign_payload the signature covers the body's SHA-256, for buckets whose policy requires it."""
    proxy = make_proxy(seaweedfs)
    async with s3_store(proxy.endpoint, make_bucket(seaweedfs), monkeypatch, sign_payload=True) as store:
        await store.put("image.part.00", memoryview(DATA), sha1(DATA), lambda _: None)
    (request,) = proxy.seen("PUT")
    assert request.headers["x-amz-content-sha256"] == hashlib.sha256(DATA).hexdigest()


@pytest.mark.parametrize("header", ["if-none-match", "x-amz-checksum", "if-none-match|x-amz-checksum"])
async def test_an_endpoint_that_does_not_know_a_header(
    header: str, ministack: Endpoint, make_bucket: MakeBucket, make_proxy: MakeProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Objects, whole and in chunks, are stored without the header, never replaced, and protected by MD5 at least."""
    unknown = Fault(action=Answer(status=501, code="NotImplemented"), method="PUT|POST", header=header, times=None)
    proxy, bucket = make_proxy(ministack, unknown), make_bucket(ministack)
    async with s3_store(proxy.endpoint, bucket, monkeypatch) as store:
        for name, data in (("image.part.00", DATA), ("image.part.01", LARGE)):
            await store.put(name, memoryview(data), sha1(data), lambda _: None)
            stored = await store.stat(name)
            assert stored is not None
            assert stored.is_the(
                len(data), whole_checksum(sha1(data)), await store.checksum(name, memoryview(data), b"")
            )
        await store.put("image.part.00", memoryview(DATA), sha1(DATA), lambda _: None)
        with pytest.raises(TakenError):
            await store.put("image.part.00", memoryview(DATA[1:]), sha1(DATA[1:]), lambda _: None)
    bodies = [each for each in proxy.seen("PUT") if each.status == 200]
    assert len(bodies) >= 5
    assert all("content-md5" in each.headers or "x-amz-checksum-sha1" in each.headers for each in bodies)
    assert open_uploads(ministack, bucket) == []


@pytest.mark.parametrize(("status", "code"), [(400, "InvalidRequest"), (501, "NotImplemented"), (400, "")])
async def test_a_stray_refusal_weakens_nothing(
    status: int,
    code: str,
    ministack: Endpoint,
    make_bucket: MakeBucket,
    make_proxy: MakeProxy,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A header that an endpoint has understood once is sent again, and not left out from then on."""
    stray = Fault(action=Answer(status=status, code=code), path=".*part.01")
    proxy = make_proxy(ministack, stray)
    async with s3_store(proxy.endpoint, make_bucket(ministack), monkeypatch) as store:
        for number in range(3):
            await store.put(f"image.part.0{number}", memoryview(DATA), sha1(DATA), lambda _: None)
    assert [each.status for each in proxy.seen("PUT")] == [200, status, 200, 200]
    assert all({"if-none-match", "x-amz-checksum-sha1"} <= each.headers.keys() for each in proxy.seen("PUT"))


@pytest.mark.parametrize("way", ["whole", "chunks", "copy"])
async def test_a_rival_between_two_attempts(
    way: str, ministack: Endpoint, make_bucket: MakeBucket, make_proxy: MakeProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without `If-None-Match` each attempt looks first: what a rival stored after the last one stays."""
    unknown = Fault(
        action=Answer(status=501, code="NotImplemented"), method="PUT|POST", header="if-none-match", times=None
    )
    proxy, bucket = make_proxy(ministack, unknown), make_bucket(ministack)
    data, key = LARGE if way == "chunks" else DATA, "some/prefix/image.part.01"
    with ministack.blocking_client() as s3:

        def rival(request: Request) -> Action | None:
            final = request.method == ("POST" if way == "chunks" else "PUT") and "uploads" not in request.query
            if (
                not final
                or not request.path.endswith(key)
                or "Contents" in s3.list_objects_v2(Bucket=bucket, Prefix=key)
            ):
                return None
            s3.put_object(Bucket=bucket, Key=key, Body=b"another's")
            return Answer(status=503, code="SlowDown")

        async with s3_store(proxy.endpoint, bucket, monkeypatch) as store:
            assert isinstance(store, S3Store)
            await store.put("image.part.00", memoryview(DATA), sha1(DATA), lambda _: None)
            proxy.at_random = rival
            source = S3Location(bucket=bucket, key_prefix="some/prefix")
            storing: Awaitable[object] = (
                store.copy("image.part.01", source, "image.part.00", sha1(DATA))
                if way == "copy"
                else store.put("image.part.01", memoryview(data), sha1(data), lambda _: None)
            )
            with pytest.raises(TakenError):
                await storing
        assert s3.get_object(Bucket=bucket, Key=key)["Body"].read() == b"another's"


async def test_a_probe_learns_anew(
    ministack: Endpoint, make_bucket: MakeBucket, make_proxy: MakeProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing that an earlier job of the same daemon learnt, by a stray answer or from a policy, binds the next one."""
    stray = Fault(action=Answer(status=501, code="NotImplemented"), header="if-none-match")
    policy = Fault(action=Answer(status=403, code="AccessDenied"), path=".*probe1")
    proxy, bucket = make_proxy(ministack, stray, policy), make_bucket(ministack)
    async with s3_store(proxy.endpoint, bucket, monkeypatch), Aws(Settings()) as aws:
        client = await aws.client("s3", "eu-west-1", proxy.url)
        found = [await put_probe(client, bucket, f"probe{number}", Acl.PRIVATE, 20) for number in range(2)]
    assert [each.lacks for each in found] == ["If-None-Match", ""]
    assert [each.encryption for each in found] == [False, True]


async def test_a_copy_without_condition_replaces_nothing(
    ministack: Endpoint, make_bucket: MakeBucket, make_proxy: MakeProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An endpoint that knows `If-None-Match` for new objects only: copies look first, new objects keep it."""
    unknown = Fault(
        action=Answer(status=501, code="NotImplemented"), path=".*(copied|rival)", header="if-none-match", times=None
    )
    proxy, bucket = make_proxy(ministack, unknown), make_bucket(ministack)
    async with s3_store(proxy.endpoint, bucket, monkeypatch) as store:
        assert isinstance(store, S3Store)
        await store.put("image.part.00", memoryview(DATA), sha1(DATA), lambda _: None)
        source = S3Location(bucket=bucket, key_prefix="some/prefix")
        await store.copy("copied", source, "image.part.00", sha1(DATA))
        with ministack.blocking_client() as s3:
            s3.put_object(Bucket=bucket, Key="some/prefix/rival", Body=b"another's")
            with pytest.raises(TakenError):
                await store.copy("rival", source, "image.part.00", sha1(DATA))
            await store.delete("rival")
            assert s3.get_object(Bucket=bucket, Key="some/prefix/rival")["Body"].read() == b"another's"
        await store.put("image.part.01", memoryview(DATA), sha1(DATA), lambda _: None)
    assert "if-none-match" in proxy.seen("PUT")[-1].headers


@pytest.mark.parametrize("place", ["explicit", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "profile", "services"])
async def test_payload_is_signed_where_it_could_be_changed(
    place: str,
    seaweedfs: Endpoint,
    make_bucket: MakeBucket,
    make_proxy: MakeProxy,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without TLS the signature covers the body, wherever the endpoint's address comes from; not on this machine."""
    proxy, bucket = make_proxy(seaweedfs), make_bucket(seaweedfs)
    look_up = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda _, *rest, **more: look_up("127.0.0.1", *rest, **more))
    for name, value in seaweedfs.environ().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    for url, body in (
        (proxy.url.replace("127.0.0.1", "s3.example.test"), hashlib.sha256(b"part").hexdigest()),
        (proxy.url, "UNSIGNED-PAYLOAD"),
    ):
        services = f"services = own\n[services own]\ns3 =\n  endpoint_url = {url}"
        lines = {"profile": f"endpoint_url = {url}", "services": services}.get(place, "")
        (tmp_path / "config").write_text(f"[default]\n{lines}\n")
        if place.startswith("AWS"):
            monkeypatch.setenv(place, url)
        async with Aws(Settings()) as aws:
            client = await aws.client("s3", seaweedfs.region, url if place == "explicit" else "")
            await client.put_object(Bucket=bucket, Key=url, Body=b"part", ChecksumSHA1=whole_checksum(sha1(b"part")))
        sent = proxy.seen("PUT")[-1]
        assert (sent.path.split("/")[1], sent.headers["x-amz-content-sha256"]) == (bucket, body)


async def test_damage_on_the_way_is_refused_by_the_server(
    seaweedfs: Endpoint, make_bucket: MakeBucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bytes that do not match the digest never become an object."""
    bucket = make_bucket(seaweedfs)
    async with s3_store(seaweedfs, bucket, monkeypatch) as store:
        with pytest.raises(StoreError, match="BadDigest"):
            await store.put("image.part.00", memoryview(DATA), sha1(b"other"), lambda _: None)
    assert list_keys(seaweedfs, bucket) == []


@pytest.mark.parametrize(
    ("action", "data"),
    [(HoldReply(), DATA), (StallBody(after=MIB), DATA), (StallBody(after=MIB), LARGE), (HoldReply(), LARGE)],
    ids=["answer held", "body stalled", "chunk stalled", "chunk's answer held"],
)
async def test_cancel_in_mid_request_then_delete_leaves_nothing(
    action: Action,
    data: bytes,
    seaweedfs: Endpoint,
    make_bucket: MakeBucket,
    make_proxy: MakeProxy,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A put that is cancelled while its body or its answer is held up can be deleted for good."""
    bucket = make_bucket(seaweedfs)
    fault = Fault(action=action, path=".*part.00", query="^(?!.*partNumber=[^2])")
    proxy = make_proxy(seaweedfs, fault)
    async with s3_store(proxy.endpoint, bucket, monkeypatch) as store:
        put = asyncio.create_task(store.put("image.part.00", memoryview(data), sha1(data), lambda _: None))
        await asyncio.to_thread(proxy.wait_hit, fault)
        put.cancel()
        proxy.clock = clock(QUICK.stall_s)
        with pytest.raises(asyncio.CancelledError):
            await put
        await store.delete("image.part.00")
    assert list_keys(seaweedfs, bucket) == []
    assert open_uploads(seaweedfs, bucket) == []


@pytest.mark.parametrize("query", ["^uploads", "^uploadId"], ids=["beginning", "completion"])
async def test_a_lost_answer_leaves_no_upload_behind(
    query: str, seaweedfs: Endpoint, make_bucket: MakeBucket, make_proxy: MakeProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the answer to the begin or the completion of an upload is lost, the object is stored and no upload stays."""
    bucket = make_bucket(seaweedfs)
    proxy = make_proxy(seaweedfs, Fault(action=DropReply(), method="POST", query=query))
    async with s3_store(proxy.endpoint, bucket, monkeypatch) as store:
        await store.put("image.part.00", memoryview(LARGE), sha1(LARGE), lambda _: None)
    assert len(proxy.seen("POST", query=query)) == 2
    with seaweedfs.blocking_client() as s3:
        assert s3.get_object(Bucket=bucket, Key="some/prefix/image.part.00")["Body"].read() == LARGE
    assert open_uploads(seaweedfs, bucket) == []


@pytest.mark.parametrize("left", ["an object", "an object of chunks", "an upload"])
async def test_a_removal_does_not_count_for_an_earlier_request(
    left: str, seaweedfs: Endpoint, make_bucket: MakeBucket, make_proxy: MakeProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request that was never answered may still make its thing after that of an answered one was removed."""
    data = DATA if left == "an object" else LARGE
    denied = Fault(action=Answer(status=403, code="AccessDenied"), query="partNumber=2", times=None)
    proxy = make_proxy(seaweedfs, *([denied] if left == "an upload" else []))
    async with s3_store(proxy.endpoint, make_bucket(seaweedfs), monkeypatch) as store:
        store.unanswered.given_up("image.part.00")
        checksum = await store.checksum("image.part.00", memoryview(data), sha1(data))
        with pytest.raises(StoreError) if left == "an upload" else nullcontext():
            await store.put("image.part.00", memoryview(data), sha1(data), lambda _: None)
        await store.tidy({"image.part.00": checksum})
        await store.remove("image.part.00", len(data), checksum)
        assert list(store.unanswered.late) == ["image.part.00"]


@pytest.mark.parametrize(("status", "counts"), [(502, True), (503, False), (504, True)])
async def test_what_a_gateway_answers_counts_as_no_answer(
    status: int,
    counts: bool,
    seaweedfs: Endpoint,
    make_bucket: MakeBucket,
    make_proxy: MakeProxy,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A gateway that gives up says nothing about the endpoint behind it, which may still store the object."""
    proxy = make_proxy(seaweedfs, Fault(action=Answer(status=status, code="Gateway"), path=".*part.00"))
    async with s3_store(proxy.endpoint, make_bucket(seaweedfs), monkeypatch) as store:
        await store.put("image.part.00", memoryview(DATA), sha1(DATA), lambda _: None)
        await store.remove("image.part.00", len(DATA), whole_checksum(sha1(DATA)))
        assert list(store.unanswered.late) == ["image.part.00"] * counts


@pytest.mark.parametrize("taken", [False, True], ids=["name free", "name taken by a rival"])
async def test_cancel_in_mid_upload_then_remove(
    taken: bool, seaweedfs: Endpoint, make_bucket: MakeBucket, make_proxy: MakeProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cancelled put leaves no upload, and does not touch an object that a rival stored under its name."""
    bucket, key = make_bucket(seaweedfs), "some/prefix/image.part.00"
    fault = Fault(action=StallBody(after=MIB), path=".*part.00", query="partNumber=2")
    proxy = make_proxy(seaweedfs, fault)
    rivals: list[str] = []
    with seaweedfs.blocking_client() as s3:
        async with s3_store(proxy.endpoint, bucket, monkeypatch) as store:
            checksum = await store.checksum("image.part.00", memoryview(LARGE), sha1(LARGE))
            put = asyncio.create_task(store.put("image.part.00", memoryview(LARGE), sha1(LARGE), lambda _: None))
            await asyncio.to_thread(proxy.wait_hit, fault)
            if taken:
                s3.put_object(Bucket=bucket, Key=key, Body=b"the rival's")
                rivals = [s3.create_multipart_upload(Bucket=bucket, Key=key)["UploadId"]]
            put.cancel()
            proxy.clock = clock(QUICK.stall_s)
            with pytest.raises(asyncio.CancelledError):
                await put
            await store.remove("image.part.00", len(LARGE), checksum, whole_checksum(sha1(LARGE)))
    assert list_keys(seaweedfs, bucket) == [key] * taken
    assert [upload for _, upload in open_uploads(seaweedfs, bucket)] == rivals


async def test_a_rivals_upload_under_the_same_name_is_left_alone(
    seaweedfs: Endpoint, make_bucket: MakeBucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two programs that store under one name the second one removes its own upload, and no other."""
    bucket, key = make_bucket(seaweedfs), "some/prefix/image.part.00"
    with seaweedfs.blocking_client() as s3:
        rival = s3.create_multipart_upload(Bucket=bucket, Key=key)["UploadId"]
        async with s3_store(seaweedfs, bucket, monkeypatch) as store:
            storing = asyncio.create_task(store.put("image.part.00", memoryview(LARGE), sha1(LARGE), lambda _: None))
            s3.put_object(Bucket=bucket, Key=key, Body=b"the rival's")
            with pytest.raises(StoreError) as caught:
                await storing
            await store.delete("image.part.00")
        assert caught.value.code == "store.exists"
        assert s3.get_object(Bucket=bucket, Key=key)["Body"].read() == b"the rival's"
        uploads = s3.list_multipart_uploads(Bucket=bucket).get("Uploads", [])
    assert [upload["UploadId"] for upload in uploads] == [rival]


@pytest.mark.parametrize("call", ["stat", "remove", "put"])
async def test_an_object_far_too_large(
    call: str, seaweedfs: Endpoint, make_bucket: MakeBucket, make_proxy: MakeProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An object of 1 TiB without a checksum is never read, and belongs to somebody else."""
    bucket = make_bucket(seaweedfs)
    large = Answer(status=200, code="OK", headers=(("ETag", '"x"'), ("Content-Length", str(2**40))))
    taken = Answer(status=412, code="PreconditionFailed")
    proxy = make_proxy(seaweedfs, Fault(action=large, method="HEAD", times=None), Fault(action=taken, times=None))
    async with s3_store(proxy.endpoint, bucket, monkeypatch) as store:
        if call == "stat":
            assert await store.stat("image.part.00") == Stored(2**40, NO_CHECKSUM)
        elif call == "remove":
            await store.remove("image.part.00", len(DATA), whole_checksum(sha1(DATA)))
        else:
            with pytest.raises(TakenError):
                await store.put("image.part.00", memoryview(DATA), sha1(DATA), lambda _: None)
    assert proxy.seen("GET|DELETE") == []
