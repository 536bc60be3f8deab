"""Claims in every kind of store: of several rivals one succeeds, and nobody changes another's claim."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from amistream.aws.session import Aws
from amistream.errors import NotSupportedError, RivalError
from amistream.location import S3Location
from amistream.ports.store import LARGEST_CLAIM, Mark
from amistream.settings import Acl, Settings
from amistream.stores.directory import DirectoryStore
from amistream.stores.s3.multipart import Multipart
from amistream.stores.s3.store import S3Store
from stores.places import CHUNK, QUICK, TOKEN, Bucket, Folder, Place, s3_store
from support.buckets import list_keys
from support.proxy import Answer, DropReply, Fault

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from conftest import MakeBucket, MakeProxy
    from support.endpoints import Endpoint

PLACES = ("directory", "moto_server", "ministack", "seaweedfs", "seaweedfs_https")
MARK = Mark(job="web-2026-11-28", run="20261128-120000-abcdef")
NAME = "image.claim"


@pytest.fixture(params=PLACES)
async def place(
    request: pytest.FixtureRequest, tmp_path: Path, make_bucket: MakeBucket, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Place]:
    if request.param == "directory":
        store = DirectoryStore(tmp_path / "here", token=TOKEN)
        await store.open()
        yield Folder(store=store, directory=tmp_path / "here")
        return
    endpoint = request.getfixturevalue(request.param)
    bucket = make_bucket(endpoint)
    async with s3_store(endpoint, bucket, monkeypatch, mark=MARK) as s3:
        yield Bucket(store=s3, endpoint=endpoint, bucket=bucket, prefix="some/prefix")


async def test_put_replaced_and_removed(place: Place) -> None:
    """A claim is read as it was put, replaced by whoever has read it, and removed."""
    store = place.store
    assert await store.read_claim(NAME) is None
    first = await store.put_claim(NAME, b"first", instead_of=None)
    assert await store.read_claim(NAME) == first
    assert place.content(NAME) == first.text == b"first"
    second = await store.put_claim(NAME, b"second", instead_of=first)
    assert await store.read_claim(NAME) == second
    await store.remove_claim(second)
    assert await store.read_claim(NAME) is None
    assert (place.names(), place.unfinished()) == ([], 0)
    await store.remove_claim(second)


async def test_what_was_read_is_there_no_more(place: Place) -> None:
    """Whoever has read an older claim, or none, neither replaces nor removes the present one."""
    store = place.store
    first = await store.put_claim(NAME, b"first", instead_of=None)
    second = await store.put_claim(NAME, b"second", instead_of=first)
    for stale in (None, first):
        with pytest.raises(RivalError):
            await store.put_claim(NAME, b"stale", instead_of=stale)
    await store.remove_claim(first)
    assert await store.read_claim(NAME) == second
    await store.remove_claim(second)
    with pytest.raises(RivalError):
        await store.put_claim(NAME, b"late", instead_of=second)
    assert place.names() == []


@pytest.mark.parametrize("fresh", [True, False], ids=["none was there", "one was there"])
async def test_rivals_of_the_same_moment(fresh: bool, place: Place) -> None:
    """Of eight that put a claim at the same time exactly one succeeds, and it is the one that is there."""
    store = place.store
    there = None if fresh else await store.put_claim(NAME, b"dead", instead_of=None)
    texts = [b"rival %d" % number for number in range(8)]
    answers = await asyncio.gather(
        *(store.put_claim(NAME, text, instead_of=there) for text in texts), return_exceptions=True
    )
    (won,) = (answer for answer in answers if not isinstance(answer, RivalError))
    assert await store.read_claim(NAME) == won


async def test_something_large_under_its_name(place: Place) -> None:
    """An object that is too large for a claim is not read whole, and can be told from a claim."""
    data = bytes(LARGEST_CLAIM + 1)
    await place.store.put(NAME, memoryview(data), hashlib.sha1(data).digest(), lambda _: None)
    found = await place.store.read_claim(NAME)
    assert found is not None
    assert found.text == b""


@pytest.mark.parametrize("size", [1000, 2 * CHUNK], ids=["whole", "in chunks"])
async def test_objects_show_who_made_them(size: int, place: Place) -> None:
    """Each object shows its job and run, where the store keeps marks; others' objects show none."""
    data = bytes(size)
    name, sha1 = "image.part.00", hashlib.sha1(data).digest()
    await place.store.put(name, memoryview(data), sha1, lambda _: None)
    stored = await place.store.stat(name)
    assert stored is not None
    assert stored.mark == (MARK if place.store.keeps_marks else None)
    if isinstance(place, Bucket):
        with place.endpoint.blocking_client() as s3:
            s3.put_object(Bucket=place.bucket, Key="some/prefix/by-hand", Body=b"", Metadata={"owner": "me"})
        stored = await place.store.stat("by-hand")
        assert stored is not None
        assert stored.mark is None


async def test_remains_of_any_process_are_removed(place: Place) -> None:
    """The remains of another process's unfinished puts go if their names belong to the caller, and no others."""
    place.leave_unfinished("image.part.00")
    place.leave_unfinished("image.part.01")
    place.leave_unfinished("other.part.00")
    place.leave_unfinished_by_another("image.part.02")
    before = place.unfinished()
    await place.store.abandon("image.part.", lambda name: name in {"image.part.00", "image.part.01", "other.part.00"})
    assert place.unfinished() == before - 2


async def test_a_copy_shows_who_made_it(
    make_bucket: MakeBucket, ministack: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An object that the service copied for a named job has the mark of that job, not of the original."""
    bucket = make_bucket(ministack)
    sha1 = hashlib.sha1(b"a part").digest()
    async with s3_store(ministack, bucket, monkeypatch, prefix="a") as plain:
        await plain.put("image.part.00", memoryview(b"a part"), sha1, lambda _: None)
    async with s3_store(ministack, bucket, monkeypatch, prefix="b", mark=MARK) as marked:
        await marked.copy("image.part.00", S3Location(bucket, "a"), "image.part.00", sha1)
        stored = await marked.stat("image.part.00")
    assert stored is not None
    assert stored.mark == MARK


class Deaf:
    """A client of an endpoint that does not hear some arguments of PutObject."""

    def __init__(self, client: Any, unheard: str) -> None:
        self._client = client
        self._unheard = unheard

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    async def put_object(self, **arguments: Any) -> Any:
        arguments.pop(self._unheard, None)
        return await self._client.put_object(**arguments)


@pytest.mark.parametrize("unheard", ["IfMatch", "IfNoneMatch", "Metadata"])
async def test_an_endpoint_that_ignores_conditions(
    unheard: str, make_bucket: MakeBucket, ministack: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No claim is relied on where a condition or a mark is ignored, and none is left there."""
    bucket = make_bucket(ministack)
    for name, value in ministack.environ().items():
        monkeypatch.setenv(name, value)
    async with Aws(Settings()) as aws:
        store = S3Store(
            Deaf(await aws.client("s3", ministack.region, ministack.url), unheard),
            S3Location(bucket, ""),
            acl=Acl.PRIVATE,
            retry=QUICK,
            multipart=Multipart(threshold=CHUNK, chunk=CHUNK, concurrency=1),
            mark=MARK,
        )
        with pytest.raises(NotSupportedError, match="cannot keep two hosts apart"):
            await store.put_claim(NAME, b"first", instead_of=None)
    assert list_keys(ministack, bucket) == []


@pytest.mark.parametrize("header", ["if-none-match", "if-match"])
async def test_an_endpoint_that_refuses_conditions(
    header: str, make_bucket: MakeBucket, make_proxy: MakeProxy, ministack: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No claim is relied on where a condition is refused, and none is left there."""
    bucket = make_bucket(ministack)
    refused = Fault(action=Answer(status=501, code="NotImplemented"), header=header, times=None)
    proxy = make_proxy(ministack, refused)
    async with s3_store(proxy.endpoint, bucket, monkeypatch, mark=MARK) as store:
        with pytest.raises(NotSupportedError, match="cannot keep two hosts apart"):
            await store.put_claim(NAME, b"first", instead_of=None)
    assert list_keys(ministack, bucket) == []


@pytest.mark.parametrize("lost", [1, 2])
async def test_an_answer_that_is_lost(
    lost: int, make_bucket: MakeBucket, make_proxy: MakeProxy, ministack: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A claim whose put was done, and not answered, is known as one's own, and not as a rival's."""
    bucket = make_bucket(ministack)
    async with s3_store(ministack, bucket, monkeypatch, mark=MARK) as store:
        await store.remove_claim(await store.put_claim(NAME, b"tried", instead_of=None))
    proxy = make_proxy(ministack, Fault(action=DropReply(), times=lost))
    async with s3_store(proxy.endpoint, bucket, monkeypatch, mark=MARK) as store:
        first = await store.put_claim(NAME, b"first", instead_of=None)
        assert await store.read_claim(NAME) == first
        assert first.text == b"first"
