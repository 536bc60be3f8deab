"""Several destinations in one job: one pass, a whole bundle in each, and one that fails does not stop the others."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from amistream.errors import UsageError
from amistream.events import State
from amistream.jobs.job import Job
from amistream.request import JobRequest, parse_request
from jobs.work import request, run, running_engine, settings, use_endpoint
from support.buckets import download_bundle, list_keys, open_uploads
from support.proxy import Answer, Fault, FaultProxy, dry_run_answered
from support.referee import check_bundle, read_bundle
from support.volumes import random_image

if TYPE_CHECKING:
    from conftest import MakeBucket, MakeProxy
    from support.endpoints import Endpoint
    from support.keys import KeyRing


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return random_image(tmp_path / "disk.img", 2_500_000)


@pytest.fixture
def buckets(ministack: Endpoint, make_bucket: MakeBucket, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    use_endpoint(ministack, monkeypatch)
    return [make_bucket(ministack) for _ in range(2)]


def failing(bucket: str, path: str = r".*\.part\.0[3-9]") -> Fault:
    """The first such part of one bucket refused, for which nothing is repeated."""
    return Fault(action=Answer(status=403, code="AccessDenied"), path=f"/{bucket}/{path}")


def to_all(image: Path, buckets: list[str], keys: KeyRing, proxy: FaultProxy, **changes: object) -> JobRequest:
    asked = request(image, f"s3://{buckets[0]}/x", keys, endpoint_url=proxy.url, **{"register_image": False, **changes})
    values = json.loads(asked.model_dump_json(exclude_none=True))
    return parse_request({**values, "destinations": [f"s3://{bucket}/x" for bucket in buckets]})


def fits(endpoint: Endpoint, bucket: str, directory: Path, image: Path, keys: KeyRing) -> bytes:
    """Check the bundle in the bucket; returns the key and IV as EC2 would get them."""
    download_bundle(endpoint, bucket, "x/", directory)
    check_bundle(directory, image, keys.user.key, keys.user.certificate)
    bundle = read_bundle(directory, keys.user.key)
    return (bundle.aes_key + bundle.aes_iv).encode()


@pytest.fixture
def proxy(make_proxy: MakeProxy, ministack: Endpoint) -> FaultProxy:
    return make_proxy(ministack, dry_run_answered())


async def test_one_pass_serves_all(
    ministack: Endpoint, buckets: list[str], image: Path, key_ring: KeyRing, tmp_path: Path, proxy: FaultProxy
) -> None:
    """Each bucket has the same parts, under one key, and a manifest of its own that fits."""
    job = await run(to_all(image, buckets, key_ring, proxy), settings(tmp_path))
    assert job.state is State.DONE
    assert job.result is not None
    assert [place.destination for place in job.result.places] == [f"s3://{bucket}/x" for bucket in buckets]
    assert job.result.manifest == f"s3://{buckets[0]}/x/image.manifest.xml"
    secrets = {fits(ministack, bucket, tmp_path / bucket, image, key_ring) for bucket in buckets}
    assert len(secrets) == 1
    names = [sorted(path.name for path in (tmp_path / bucket).iterdir()) for bucket in buckets]
    assert names[0] == names[1]


async def test_one_that_fails_does_not_stop_the_other_and_is_resumed(
    ministack: Endpoint, buckets: list[str], image: Path, key_ring: KeyRing, tmp_path: Path, make_proxy: MakeProxy
) -> None:
    """The good bucket is done; the job fails naming the other; resuming finishes that one and sends nothing to the
    first, and no part twice.
    """
    good, bad = buckets
    broken = make_proxy(ministack, failing(bad))
    chosen = settings(tmp_path)
    async with running_engine(chosen) as engine:
        job = Job(to_all(image, buckets, key_ring, broken))
        await engine.enter(job)
        await engine.run(job)
        assert (job.state, job.resumable) == (State.FAILED, True)
        assert job.error is not None
        assert "1 of 2 destinations (1 done)" in job.error.message
        assert f"s3://{bad}/x" in job.error.message
        assert job.result is not None
        assert [place.error is None for place in job.result.places] == [True, False]
        fits(ministack, good, tmp_path / "good", image, key_ring)
        stored = set(list_keys(ministack, bad))
        assert stored

        before = len(broken.requests)
        again = job.again()
        await engine.run(again)
    assert again.state is State.DONE, again.error
    puts = [put.path for put in broken.requests[before:] if put.method == "PUT" and "probe" not in put.path]
    assert puts
    assert all(path.startswith(f"/{bad}/") for path in puts)
    assert not {path.removeprefix(f"/{bad}/") for path in puts} & stored
    fits(ministack, bad, tmp_path / "bad", image, key_ring)


@pytest.mark.parametrize("end", ["removed", "rival", "changed"])
async def test_what_is_done_is_told_when_the_rest_is_given_up(
    end: str,
    ministack: Endpoint,
    buckets: list[str],
    image: Path,
    key_ring: KeyRing,
    tmp_path: Path,
    make_proxy: MakeProxy,
) -> None:
    """A complete bundle stays, and the job notes it, whatever happens at the other destinations."""
    good, bad = buckets
    broken = make_proxy(ministack, failing(bad))
    async with running_engine(settings(tmp_path)) as engine:
        job = Job(to_all(image, buckets, key_ring, broken))
        await engine.enter(job)
        await engine.run(job)
        later = job.again()
        if end == "removed":
            await engine.clean(later)
            assert later.state is State.CANCELLED
        else:
            if end == "rival":
                with ministack.blocking_client() as s3:
                    s3.put_object(Bucket=bad, Key="x/image.part.05", Body=b"another's")
            else:
                with image.open("r+b") as file:
                    file.write(b"something else")
            await engine.run(later)
            assert (later.state, later.resumable) == (State.FAILED, False)
    assert later.notices[-1].startswith(f"complete, and stays: s3://{good}/x/image.manifest.xml")
    assert "x/image.manifest.xml" in list_keys(ministack, good)


async def test_all_or_none_leaves_none(
    ministack: Endpoint, buckets: list[str], image: Path, key_ring: KeyRing, tmp_path: Path, make_proxy: MakeProxy
) -> None:
    """With all_or_none the first failure ends the job for all destinations; a cancel leaves nothing anywhere."""
    broken = make_proxy(ministack, failing(buckets[1]))
    async with running_engine(settings(tmp_path)) as engine:
        job = Job(to_all(image, buckets, key_ring, broken, all_or_none=True))
        await engine.enter(job)
        await engine.run(job)
        assert job.state is State.FAILED
        assert not any(key.endswith(".xml") for bucket in buckets for key in list_keys(ministack, bucket))
        cleaned = job.again()
        await engine.clean(cleaned)
    assert cleaned.state is State.CANCELLED
    for bucket in buckets:
        assert list_keys(ministack, bucket) == []
        assert open_uploads(ministack, bucket) == []


async def test_the_upload_that_a_destination_dropped_out_of_is_aborted(
    ministack: Endpoint, buckets: list[str], key_ring: KeyRing, tmp_path: Path, make_proxy: MakeProxy
) -> None:
    """A part that one destination has and another received in halves is stored once more and leaves no upload."""
    good, bad = buckets
    image = random_image(tmp_path / "disk.img", 13_000_000)
    refused = Fault(
        action=Answer(status=403, code="AccessDenied"), path=f"/{bad}/.*part.00", query="partNumber=2", times=None
    )
    broken = make_proxy(ministack, refused)
    chosen = settings(tmp_path, part_size="6MiB", multipart_threshold="5MiB", multipart_chunk="5MiB")
    async with running_engine(chosen) as engine:
        job = Job(to_all(image, buckets, key_ring, broken))
        await engine.enter(job)
        await engine.run(job)
        assert job.resumable
        assert open_uploads(ministack, bad) != []
        await asyncio.to_thread(broken.mend, refused)
        again = job.again()
        await engine.run(again)
    assert again.state is State.DONE, again.error
    for bucket in (good, bad):
        assert open_uploads(ministack, bucket) == []
        fits(ministack, bucket, tmp_path / bucket, image, key_ring)


@pytest.mark.parametrize("later", [False, True], ids=["the first life", "a later life"])
@pytest.mark.parametrize("dead", [0, 1])
async def test_a_dead_destination_does_not_keep_the_other_from_being_cleaned(
    dead: int,
    later: bool,
    ministack: Endpoint,
    buckets: list[str],
    image: Path,
    key_ring: KeyRing,
    tmp_path: Path,
    make_proxy: MakeProxy,
) -> None:
    """A removal that fails at one destination is made at the others; the job names the rest for a later one."""
    bad, good = buckets[dead], buckets[1 - dead]
    refused = failing(good)
    mute = Fault(
        action=Answer(status=403, code="AccessDenied"), method="HEAD|DELETE", path=f"/{bad}/.*part.*", times=None
    )
    broken = make_proxy(ministack, refused)
    # One part after another: what is stored when the first is refused is known.
    async with running_engine(settings(tmp_path, upload_concurrency=1)) as engine:
        job = Job(to_all(image, buckets, key_ring, broken, all_or_none=True))
        await engine.enter(job)
        await engine.run(job)
        assert job.resumable
        assert list_keys(ministack, bad) != []
        await asyncio.to_thread(broken.add, mute)
        if later:
            # Nothing can be asked of the dead one, so that the later life fails, and is then removed.
            failed = job.again()
            await engine.run(failed)
            assert (failed.state, failed.resumable) == (State.FAILED, True)
        cleaned = job.again()
        await engine.clean(cleaned)
        assert (cleaned.state, cleaned.resumable) == (State.FAILED, True)
        assert list_keys(ministack, good) == []
        assert list_keys(ministack, bad) != []
        await asyncio.to_thread(broken.mend, mute)
        cleaned = job.again()
        await engine.clean(cleaned)
    assert cleaned.state is State.CANCELLED
    assert list_keys(ministack, bad) == []


async def test_directories(image: Path, key_ring: KeyRing, tmp_path: Path) -> None:
    """Two directories get the same bundle."""
    asked = request(image, tmp_path / "a", key_ring, region="eu-west-1")
    values = json.loads(asked.model_dump_json(exclude_none=True, exclude={"region"}))
    both = parse_request({**values, "destinations": [str(tmp_path / "a"), str(tmp_path / "b")]})
    job = await run(both, settings(tmp_path, region="eu-west-1"))
    assert job.state is State.DONE, job.error
    for name in ("a", "b"):
        check_bundle(tmp_path / name, image, key_ring.user.key, key_ring.user.certificate)


@pytest.mark.parametrize(
    ("destinations", "words"),
    [
        (["s3://bucket/a", "/directory"], "buckets, or directories, but not both"),
        (["s3://bucket/a", "s3://bucket/a"], "one is given twice"),
    ],
)
def test_destinations_that_do_not_go_together(destinations: list[str], words: str) -> None:
    """Destinations that cannot form one job are refused with the reason."""
    with pytest.raises(UsageError, match=words):
        parse_request({"source": "/disk.img", "destinations": destinations})
