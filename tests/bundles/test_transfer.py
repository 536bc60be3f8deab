"""Download and upload of whole bundles: verified, resumable, and clean after a failure."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from amistream.bundles.meter import Meter
from amistream.errors import DifferenceError, RefusedError, StoreError
from amistream.reports import Transferred
from bundles.made import Work, contents, engine_bundle, flip, older_bundle, put_files, stored_bytes, work
from jobs.work import use_endpoint
from support.buckets import list_keys, open_uploads
from support.loop import clock
from support.proxy import Answer, Fault, HoldReply, PauseReply, PauseRequest, TruncateReply
from support.referee import check_bundle

if TYPE_CHECKING:
    from conftest import MakeBucket, MakeProxy
    from support.endpoints import Endpoint
    from support.keys import KeyRing
    from support.proxy import FaultProxy

SIZES = [300_000, 300_000, 300_000, 300_000, 12_345]
DENIED = Answer(status=403, code="AccessDenied")


@pytest.fixture
def store(seaweedfs: Endpoint, monkeypatch: pytest.MonkeyPatch) -> Endpoint:
    """Start an S3 that checks checksums and conditions."""
    use_endpoint(seaweedfs, monkeypatch)
    return seaweedfs


@pytest.fixture
def bundle(tmp_path: Path, key_ring: KeyRing) -> Path:
    """Make the manifest of a small bundle of the older tools."""
    return older_bundle(tmp_path / "old", key_ring, SIZES)


async def upload(it: Work, manifest: Path | str, to: str) -> Transferred:
    async with it.session() as session:
        return await session.upload(str(manifest), to, Meter())


async def download(it: Work, address: str, directory: Path) -> Transferred:
    async with it.session() as session:
        return await session.download(address, directory, Meter())


def parts_asked(proxy: FaultProxy, method: str) -> list[str]:
    return [each.path.rpartition(".")[2] for each in proxy.seen(method, r".*\.part\.\d+")]


async def test_up_and_down_again(
    endpoint: Endpoint, make_bucket: MakeBucket, tmp_path: Path, key_ring: KeyRing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bundle uploaded to any endpoint and downloaded again has the same files, which every referee accepts."""
    use_endpoint(endpoint, monkeypatch)
    image = await engine_bundle(tmp_path / "made", key_ring, tmp_path)
    bucket, it = make_bucket(endpoint), work(tmp_path, endpoint)
    up = await upload(it, tmp_path / "made" / "image.manifest.xml", f"s3://{bucket}/a/b")
    down = await download(it, up.manifest, tmp_path / "down")
    assert up.manifest == f"s3://{bucket}/a/b/image.manifest.xml"
    assert (up.parts, up.kept, down.parts, down.kept) == (6, 0, 6, 0)
    assert contents(tmp_path / "down") == contents(tmp_path / "made")
    check_bundle(tmp_path / "down", image, key_ring.user.key, key_ring.user.certificate)
    assert it.notes == []


async def test_how_objects_are_sent(
    store: Endpoint, make_bucket: MakeBucket, make_proxy: MakeProxy, bundle: Path, tmp_path: Path
) -> None:
    """Objects of an older tool's bundle keep their names and have ACL, SHA-1 and condition; the manifest goes last."""
    proxy, bucket = make_proxy(store), make_bucket(store)
    await upload(work(tmp_path, proxy.endpoint), bundle, f"s3://{bucket}")
    assert stored_bytes(store, bucket) == contents(bundle.parent)
    sent = proxy.seen("PUT")
    assert len(sent) == len(SIZES) + 1
    assert sent[-1].path == f"/{bucket}/holes.img.manifest.xml"
    for each in sent:
        assert each.headers["x-amz-acl"] == "aws-exec-read"
        assert each.headers["if-none-match"] == "*"
        assert each.headers["x-amz-checksum-sha1"]
    assert all(each.status == 200 for each in proxy.requests if each.method == "PUT")


async def test_download_kept_parts(
    store: Endpoint, make_bucket: MakeBucket, make_proxy: MakeProxy, bundle: Path, tmp_path: Path
) -> None:
    """Whole parts of a failed download stay, and the next download fetches only the rest."""
    bucket = make_bucket(store)
    put_files(store, bucket, bundle.parent)
    fault = Fault(action=DENIED, method="GET", path=r".*\.part\.2")
    proxy = make_proxy(store, fault)
    it = work(tmp_path, proxy.endpoint, upload_concurrency=1)
    with pytest.raises(StoreError) as caught:
        await download(it, f"s3://{bucket}/holes.img.manifest.xml", tmp_path / "down")
    assert caught.value.code == "aws.AccessDenied"
    assert sorted(contents(tmp_path / "down")) == ["holes.img.part.0", "holes.img.part.1"]
    assert "2 of 5 parts" in it.notes[-1]
    proxy.requests.clear()
    done = await download(it, f"s3://{bucket}/holes.img.manifest.xml", tmp_path / "down")
    assert done.kept == 2
    assert parts_asked(proxy, "GET") == ["2", "3", "4"]
    assert contents(tmp_path / "down") == contents(bundle.parent)


async def test_download_of_a_whole_one(store: Endpoint, make_bucket: MakeBucket, bundle: Path, tmp_path: Path) -> None:
    """A repeated download reads no part and changes nothing."""
    bucket, it = make_bucket(store), work(tmp_path, store)
    await upload(it, bundle, f"s3://{bucket}")
    done = await download(it, f"s3://{bucket}/holes.img.manifest.xml", bundle.parent)
    assert (done.parts, done.kept) == (5, 5)


async def test_truncated_replies(
    store: Endpoint, make_bucket: MakeBucket, make_proxy: MakeProxy, bundle: Path, tmp_path: Path
) -> None:
    """A truncated reply is requested again."""
    bucket = make_bucket(store)
    put_files(store, bucket, bundle.parent)
    proxy = make_proxy(store, Fault(action=TruncateReply(lacking=1000), method="GET", path=r".*\.part\.\d+", times=3))
    await download(work(tmp_path, proxy.endpoint), f"s3://{bucket}/holes.img.manifest.xml", tmp_path / "down")
    assert contents(tmp_path / "down") == contents(bundle.parent)


@pytest.mark.parametrize("known", [True, False])
async def test_download_of_a_bad_part(
    known: bool, store: Endpoint, make_bucket: MakeBucket, bundle: Path, tmp_path: Path
) -> None:
    """A part with a flipped bit is reported and nothing stays, with or without a checksum of S3."""
    bucket = make_bucket(store)
    flip(bundle.with_name("holes.img.part.3"))
    put_files(store, bucket, bundle.parent)
    if known:
        with store.blocking_client() as s3:
            body = bundle.with_name("holes.img.part.3").read_bytes()
            s3.put_object(Bucket=bucket, Key="holes.img.part.3", Body=body, ChecksumAlgorithm="SHA1")
    it = work(tmp_path, store)
    with pytest.raises(DifferenceError, match=r"holes\.img\.part\.3") as caught:
        await download(it, f"s3://{bucket}/holes.img.manifest.xml", tmp_path / "down")
    assert "amistream verify s3://" in caught.value.hint
    assert not (tmp_path / "down").exists()


@pytest.mark.parametrize(
    ("damage", "words"), [("gone", r"part\.1: it is missing \(1 more\)"), ("size", "the manifest says 900000")]
)
async def test_parts_that_are_not_what_they_should(
    damage: str, words: str, store: Endpoint, make_bucket: MakeBucket, bundle: Path, tmp_path: Path
) -> None:
    """A missing part or a wrong sum of sizes is found before any download."""
    bucket, it = make_bucket(store), work(tmp_path, store)
    if damage == "gone":
        bundle.with_name("holes.img.part.1").unlink()
        bundle.with_name("holes.img.part.3").unlink()
    else:
        bundle.write_text(bundle.read_text().replace("<bundled_size>1212345<", "<bundled_size>900000<"))
    put_files(store, bucket, bundle.parent)
    with pytest.raises(DifferenceError, match=words):
        await download(it, f"s3://{bucket}/holes.img.manifest.xml", tmp_path / "down")
    with pytest.raises(DifferenceError, match=words):
        await upload(it, bundle, f"s3://{bucket}/other")
    assert not (tmp_path / "down").exists()
    assert list_keys(store, bucket, "other") == []


async def test_download_replaces_nothing(
    store: Endpoint, make_bucket: MakeBucket, bundle: Path, tmp_path: Path
) -> None:
    """A file with a part's name and other content, and another manifest, are refused and stay."""
    bucket, it = make_bucket(store), work(tmp_path, store)
    put_files(store, bucket, bundle.parent)
    address, down = f"s3://{bucket}/holes.img.manifest.xml", tmp_path / "down"
    down.mkdir()
    (down / "holes.img.part.1").write_text("precious")
    with pytest.raises(StoreError, match="exists already, with other content"):
        await download(it, address, down)
    (down / "holes.img.manifest.xml").write_text("precious")
    with pytest.raises(RefusedError, match="another bundle exists there"):
        await download(it, address, down)
    assert {name: data for name, data in contents(down).items() if data == b"precious"}.keys() == {
        "holes.img.part.1",
        "holes.img.manifest.xml",
    }


async def test_a_pipe_in_the_place_of_a_part(
    store: Endpoint, make_bucket: MakeBucket, bundle: Path, tmp_path: Path
) -> None:
    """A named pipe with a part's name is refused and does not block."""
    bucket, down = make_bucket(store), tmp_path / "down"
    put_files(store, bucket, bundle.parent)
    down.mkdir()
    os.mkfifo(down / "holes.img.part.1")
    with pytest.raises(StoreError, match=r"part\.1: it exists already"):
        await asyncio.wait_for(download(work(tmp_path, store), f"s3://{bucket}/holes.img.manifest.xml", down), 30)
    assert (down / "holes.img.part.1").is_fifo()


async def test_two_downloads_into_one_directory(
    store: Endpoint, make_bucket: MakeBucket, make_proxy: MakeProxy, bundle: Path, tmp_path: Path
) -> None:
    """A second download into the same directory is refused while the first one runs."""
    bucket = make_bucket(store)
    put_files(store, bucket, bundle.parent)
    fault = Fault(action=PauseReply(), method="GET", path=r".*\.part\.0", times=None)
    proxy = make_proxy(store, fault)
    it, address, down = work(tmp_path, proxy.endpoint), f"s3://{bucket}/holes.img.manifest.xml", tmp_path / "down"
    first = asyncio.create_task(download(it, address, down))
    # Paused replies are not counted as hits; the request itself shows.
    while not parts_asked(proxy, "GET"):
        await asyncio.to_thread(lambda: None)
    with pytest.raises(RefusedError, match="another download is writing there"):
        await download(it, address, down)
    await asyncio.to_thread(proxy.let_go, fault)
    await first
    assert contents(down) == contents(bundle.parent)


async def test_cancelled_download(
    store: Endpoint, make_bucket: MakeBucket, make_proxy: MakeProxy, bundle: Path, tmp_path: Path
) -> None:
    """A cancelled download leaves whole parts under their names and no other file."""
    bucket = make_bucket(store)
    put_files(store, bucket, bundle.parent)
    fault = Fault(action=HoldReply(), method="GET", path=r".*\.part\.4")
    proxy = make_proxy(store, fault)
    it = work(tmp_path, proxy.endpoint, upload_concurrency=1)
    task = asyncio.create_task(download(it, f"s3://{bucket}/holes.img.manifest.xml", tmp_path / "down"))
    await asyncio.to_thread(proxy.wait_hit, fault)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert sorted(contents(tmp_path / "down")) == [f"holes.img.part.{index}" for index in range(4)]


async def test_what_a_killed_download_left(
    store: Endpoint, make_bucket: MakeBucket, bundle: Path, tmp_path: Path
) -> None:
    """The next download removes temporary files of a killed one."""
    bucket, down = make_bucket(store), tmp_path / "down"
    put_files(store, bucket, bundle.parent)
    down.mkdir()
    (down / ".holes.img.part.1.download.partial").write_text("half")
    await download(work(tmp_path, store), f"s3://{bucket}/holes.img.manifest.xml", down)
    assert contents(down) == contents(bundle.parent)


async def test_no_space_for_a_download(
    store: Endpoint, make_bucket: MakeBucket, tmp_path: Path, key_ring: KeyRing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A directory with too little space is refused before any download."""
    manifest, bucket = older_bundle(tmp_path / "old", key_ring, SIZES), make_bucket(store)
    put_files(store, bucket, manifest.parent)
    usage = type("Usage", (), {"free": 1_212_344})
    monkeypatch.setattr("amistream.bundles.download.shutil.disk_usage", lambda _: usage)
    with pytest.raises(RefusedError, match=r"it needs 1\.2 MiB, 1 B more than are free"):
        await download(work(tmp_path, store), f"s3://{bucket}/holes.img.manifest.xml", tmp_path / "down")
    assert not (tmp_path / "down").exists()


async def test_upload_goes_on(
    store: Endpoint, make_bucket: MakeBucket, make_proxy: MakeProxy, bundle: Path, tmp_path: Path
) -> None:
    """A failed upload leaves whole parts and no manifest; the next one checks those and uploads the rest."""
    bucket = make_bucket(store)
    fault = Fault(action=DENIED, path=r".*\.part\.2")
    proxy = make_proxy(store, fault)
    it = work(tmp_path, proxy.endpoint, upload_concurrency=1)
    with pytest.raises(StoreError):
        await upload(it, bundle, f"s3://{bucket}/k")
    assert list_keys(store, bucket) == ["k/holes.img.part.0", "k/holes.img.part.1"]
    assert "the same command continues" in it.notes[-1]
    proxy.requests.clear()
    done = await upload(it, bundle, f"s3://{bucket}/k")
    assert done.kept == 2
    assert parts_asked(proxy, "HEAD") == ["0", "1"]
    assert parts_asked(proxy, "PUT") == ["2", "3", "4"]
    assert stored_bytes(store, bucket, "k/") == contents(bundle.parent)
    proxy.requests.clear()
    assert (await upload(it, bundle, f"s3://{bucket}/k")).kept == 5
    assert parts_asked(proxy, "PUT") == []


async def test_upload_of_large_parts_goes_on(
    store: Endpoint, make_bucket: MakeBucket, make_proxy: MakeProxy, tmp_path: Path, key_ring: KeyRing
) -> None:
    """Parts uploaded in chunks are recognised by the checksum of their chunks, and no unfinished upload is left."""
    manifest, bucket = older_bundle(tmp_path / "old", key_ring, [6_000_000] * 2), make_bucket(store)
    denied = Fault(action=DENIED, method="PUT", path=r".*\.part\.1", query="partNumber=2")
    proxy = make_proxy(store, denied)
    it = work(tmp_path, proxy.endpoint, upload_concurrency=1, multipart_threshold="5242880", multipart_chunk="5242880")
    with pytest.raises(StoreError):
        await upload(it, manifest, f"s3://{bucket}")
    assert list_keys(store, bucket) == ["holes.img.part.0"]
    assert open_uploads(store, bucket) == []
    # As after a kill: an upload that is never completed.
    with store.blocking_client() as s3:
        s3.create_multipart_upload(Bucket=bucket, Key="holes.img.part.1")
    done = await upload(it, manifest, f"s3://{bucket}")
    assert done.kept == 1
    assert open_uploads(store, bucket) == []
    assert stored_bytes(store, bucket) == contents(manifest.parent)
    assert (await upload(it, manifest, f"s3://{bucket}")).kept == 2


async def test_upload_of_a_bad_part(store: Endpoint, make_bucket: MakeBucket, bundle: Path, tmp_path: Path) -> None:
    """A part that differs from the manifest is never uploaded, and the parts before it are removed."""
    bucket = make_bucket(store)
    flip(bundle.with_name("holes.img.part.4"))
    with pytest.raises(DifferenceError, match=r"holes\.img\.part\.4 has SHA-1"):
        await upload(work(tmp_path, store, upload_concurrency=1), bundle, f"s3://{bucket}")
    assert list_keys(store, bucket) == []


async def test_cancelled_upload(
    store: Endpoint, make_bucket: MakeBucket, make_proxy: MakeProxy, bundle: Path, tmp_path: Path
) -> None:
    """A cancelled upload leaves only whole parts, and no manifest."""
    bucket = make_bucket(store)
    fault = Fault(action=HoldReply(), path=r".*\.part\.3")
    proxy = make_proxy(store, fault)
    it = work(tmp_path, proxy.endpoint, upload_concurrency=1)
    task = asyncio.create_task(upload(it, bundle, f"s3://{bucket}"))
    await asyncio.to_thread(proxy.wait_hit, fault)
    task.cancel()
    proxy.clock = clock(it.settings.stall_timeout_s)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert list_keys(store, bucket) == [f"holes.img.part.{index}" for index in range(3)]


async def test_an_upload_that_another_overtook(
    store: Endpoint, make_bucket: MakeBucket, make_proxy: MakeProxy, bundle: Path, tmp_path: Path
) -> None:
    """Cancelling an upload removes no part of a bundle that another upload has completed."""
    bucket = make_bucket(store)
    stuck = Fault(action=PauseRequest(), method="PUT", path=r".*\.part\.2")
    proxy = make_proxy(store, stuck)
    first = asyncio.create_task(upload(work(tmp_path, proxy.endpoint, upload_concurrency=1), bundle, f"s3://{bucket}"))
    await asyncio.to_thread(proxy.wait_hit, stuck)
    await upload(work(tmp_path, store), bundle, f"s3://{bucket}")
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert stored_bytes(store, bucket) == contents(bundle.parent)


async def test_a_part_that_another_upload_took_back(
    store: Endpoint, make_bucket: MakeBucket, make_proxy: MakeProxy, bundle: Path, tmp_path: Path
) -> None:
    """No manifest is written if a part has disappeared; a repeated upload completes the bundle."""
    bucket = make_bucket(store)
    stuck = Fault(action=PauseRequest(), method="PUT", path=r".*\.part\.4")
    proxy = make_proxy(store, stuck)
    running = asyncio.create_task(
        upload(work(tmp_path, proxy.endpoint, upload_concurrency=1), bundle, f"s3://{bucket}")
    )
    await asyncio.to_thread(proxy.wait_hit, stuck)
    with store.blocking_client() as s3:
        s3.delete_object(Bucket=bucket, Key="holes.img.part.1")
    await asyncio.to_thread(proxy.let_go, stuck)
    with pytest.raises(StoreError, match=r"holes\.img\.part\.1 has disappeared"):
        await running
    assert "holes.img.manifest.xml" not in list_keys(store, bucket)
    await upload(work(tmp_path, store), bundle, f"s3://{bucket}")
    assert stored_bytes(store, bucket) == contents(bundle.parent)


async def test_upload_replaces_nothing(store: Endpoint, make_bucket: MakeBucket, bundle: Path, tmp_path: Path) -> None:
    """Another object with the name of a part or the manifest is refused before any upload."""
    bucket, it = make_bucket(store), work(tmp_path, store)
    with store.blocking_client() as s3:
        s3.put_object(Bucket=bucket, Key="a/holes.img.part.3", Body=b"precious")
        s3.put_object(Bucket=bucket, Key="b/holes.img.manifest.xml", Body=b"precious")
    with pytest.raises(StoreError, match="with other content"):
        await upload(it, bundle, f"s3://{bucket}/a")
    with pytest.raises(RefusedError, match="another bundle exists there"):
        await upload(it, bundle, f"s3://{bucket}/b")
    assert stored_bytes(store, bucket) == {
        "a/holes.img.part.3": b"precious",
        "b/holes.img.manifest.xml": b"precious",
    }


async def test_upload_without_acls(
    ministack: Endpoint, make_bucket: MakeBucket, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bucket with disabled ACLs is refused with the fix, before any upload."""
    use_endpoint(ministack, monkeypatch)
    bucket = make_bucket(ministack, acls=False)
    with pytest.raises(RefusedError, match="its ACLs are disabled") as caught:
        await upload(work(tmp_path, ministack), bundle, f"s3://{bucket}")
    assert bucket in caught.value.hint
    assert list_keys(ministack, bucket) == []


async def test_a_source_in_a_bucket(tmp_path: Path) -> None:
    """A bundle in a bucket is not uploaded: the message names the right command."""
    with pytest.raises(RefusedError) as caught:
        await upload(work(tmp_path), "s3://bucket/image.manifest.xml", "s3://other")
    assert caught.value.code == "upload.source"


async def test_many_parts(store: Endpoint, make_bucket: MakeBucket, tmp_path: Path, key_ring: KeyRing) -> None:
    """A bundle of 101 parts is transferred both ways."""
    manifest, bucket, it = (
        older_bundle(tmp_path / "old", key_ring, [1000] * 101),
        make_bucket(store),
        work(tmp_path, store),
    )
    await upload(it, manifest, f"s3://{bucket}/many")
    await download(it, f"s3://{bucket}/many/holes.img.manifest.xml", tmp_path / "down")
    assert contents(tmp_path / "down") == contents(manifest.parent)


@pytest.mark.parametrize("content", ["of another bundle", "the same"])
async def test_objects_without_a_checksum_are_read(
    content: str,
    ministack: Endpoint,
    make_bucket: MakeBucket,
    bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An object without a checksum, with a part's name and size, is read and counts only if it is the part."""
    use_endpoint(ministack, monkeypatch)
    bucket, part = make_bucket(ministack), bundle.with_name("holes.img.part.1")
    left = part.read_bytes() if content == "the same" else bytes(SIZES[1])
    with ministack.blocking_client() as s3:
        s3.put_object(Bucket=bucket, Key=part.name, Body=left, ACL="aws-exec-read")
    it = work(tmp_path, ministack)
    if content == "the same":
        assert (await upload(it, bundle, f"s3://{bucket}")).kept == 1
        return
    with pytest.raises(StoreError) as caught:
        await upload(it, bundle, f"s3://{bucket}")
    assert caught.value.code == "store.exists"
    assert bundle.name not in list_keys(ministack, bucket)
    assert stored_bytes(ministack, bucket)[part.name] == left
