"""Several destinations in one job: one pass, a whole bundle in each, and one that fails does not stop the others."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from amistream.errors import UsageError
from amistream.events import BundleResult, State
from amistream.request import parse_bundle_request
from jobs.runs import DENIED
from jobs.work import request, run, settings
from support.referee import check_bundle
from support.volumes import random_image

if TYPE_CHECKING:
    from pathlib import Path

    from jobs.runs import Cloud, MakeScene, Scene
    from support.keys import KeyRing
    from support.proxy import Fault


async def one_fails(cloud: Cloud, bucket: str) -> Fault:
    """Refuse the fourth part of one bucket, or the first after it, for which nothing is repeated."""
    return await cloud.breaks(DENIED, rf"/{bucket}/.*\.part\.0[3-9]", times=1)


async def test_one_pass_serves_all(cloud: Cloud, image: Path, key_ring: KeyRing, tmp_path: Path) -> None:
    """Each bucket has the same parts, under one key, and a manifest of its own that fits."""
    job = await run(cloud.request(image, key_ring, both=True), settings(tmp_path))
    assert isinstance(job.result, BundleResult), job.error
    buckets = [cloud.bucket, cloud.second]
    assert [place.destination for place in job.result.places] == [f"s3://{bucket}/x" for bucket in buckets]
    assert job.result.manifest == f"s3://{cloud.bucket}/x/image.manifest.xml"
    key = key_ring.user
    got = [
        check_bundle(cloud.downloaded(tmp_path / bucket, bucket), image, key.key, key.certificate) for bucket in buckets
    ]
    assert (got[0].aes_key, got[0].aes_iv) == (got[1].aes_key, got[1].aes_iv)
    assert cloud.stored() == cloud.stored(cloud.second)


async def test_one_that_fails_does_not_stop_the_other_and_is_resumed(
    scene: Scene, cloud: Cloud, tmp_path: Path
) -> None:
    """The job finishes one bucket and fails naming the other; its next run stores what that one lacks, and no more."""
    good, bad = cloud.bucket, cloud.second
    await one_fails(cloud, bad)
    job = await scene.run(cloud.request(scene.image, scene.keys, both=True))
    assert (job.state, job.resumable) == (State.FAILED, True)
    assert job.error is not None
    assert "1 of 2 destinations (1 done)" in job.error.message
    assert f"s3://{bad}/x" in job.error.message
    assert isinstance(job.result, BundleResult)
    assert [place.error is None for place in job.result.places] == [True, False]
    scene.fits(cloud.downloaded(tmp_path / "good", good))
    stored = set(cloud.stored(bad))
    assert stored
    before = len(cloud.proxy.requests)
    job = await scene.again(job)
    assert job.state is State.DONE, job.error
    puts = [put.path for put in cloud.proxy.requests[before:] if put.method == "PUT" and "probe" not in put.path]
    assert puts
    assert all(path.startswith(f"/{bad}/") for path in puts)
    assert not {path.removeprefix(f"/{bad}/") for path in puts} & stored
    scene.fits(cloud.downloaded(tmp_path / "bad", bad))


@pytest.mark.parametrize("end", ["removed", "rival", "changed"])
async def test_a_finished_bundle_is_noted_when_the_rest_is_given_up(end: str, scene: Scene, cloud: Cloud) -> None:
    """A complete bundle stays, and the job notes it, whatever happens at the other destinations."""
    await one_fails(cloud, cloud.second)
    job = await scene.run(cloud.request(scene.image, scene.keys, both=True))
    if end == "removed":
        job = await scene.clean(job)
        assert job.state is State.CANCELLED
    else:
        if end == "rival":
            with cloud.endpoint.blocking_client() as s3:
                s3.put_object(Bucket=cloud.second, Key="x/image.part.05", Body=b"another's")
        else:
            with scene.image.open("r+b") as file:
                file.write(b"something else")
        job = await scene.again(job)
        assert (job.state, job.resumable) == (State.FAILED, False)
    assert job.notices[-1].startswith(f"complete, and stays: s3://{cloud.bucket}/x/image.manifest.xml")
    assert "x/image.manifest.xml" in cloud.stored()


async def test_the_upload_that_a_destination_dropped_out_of_is_aborted(
    make_scene: MakeScene, cloud: Cloud, tmp_path: Path
) -> None:
    """A part that one destination has and another received in halves is stored once more and leaves no upload."""
    random_image(tmp_path / "disk.img", 13_000_000)
    refused = await cloud.breaks(DENIED, f"/{cloud.second}/.*part.00", query="partNumber=2")
    async with make_scene(part_size="6MiB", multipart_threshold="5MiB", multipart_chunk="5MiB") as scene:
        job = await scene.run(cloud.request(scene.image, scene.keys, both=True))
        assert job.resumable
        assert cloud.uploads(cloud.second) != []
        await cloud.mend(refused)
        job = await scene.again(job)
        assert job.state is State.DONE, job.error
        for bucket in (cloud.bucket, cloud.second):
            assert cloud.uploads(bucket) == []
            scene.fits(cloud.downloaded(tmp_path / bucket, bucket))


@pytest.mark.parametrize("later", [False, True], ids=["the first run", "a later run"])
@pytest.mark.parametrize("second_is_dead", [False, True])
async def test_a_dead_destination_does_not_keep_the_other_from_being_cleaned(
    second_is_dead: bool, later: bool, make_scene: MakeScene, cloud: Cloud
) -> None:
    """With all_or_none no manifest is put anywhere; a removal that fails at one destination is made at the others."""
    dead, good = (cloud.second, cloud.bucket) if second_is_dead else (cloud.bucket, cloud.second)
    await one_fails(cloud, good)
    # One part after another: what is stored when the first is refused is known.
    async with make_scene(upload_concurrency=1) as scene:
        job = await scene.run(cloud.request(scene.image, scene.keys, both=True, all_or_none=True))
        assert (job.state, job.resumable) == (State.FAILED, True)
        assert cloud.stored(dead) != []
        assert not any(key.endswith(".xml") for key in cloud.stored(dead) + cloud.stored(good))
        mute = await cloud.breaks(DENIED, f"/{dead}/.*part.*", method="HEAD|DELETE")
        if later:
            # Nothing can be asked of the dead one, so that the later run fails, and is then removed.
            failed = await scene.again(job)
            assert (failed.state, failed.resumable) == (State.FAILED, True)
        cleaned = await scene.clean(job)
        assert (cleaned.state, cleaned.resumable) == (State.FAILED, True)
        assert cloud.stored(good) == []
        assert cloud.stored(dead) != []
        await cloud.mend(mute)
        assert (await scene.clean(job)).state is State.CANCELLED
    assert cloud.stored(dead) == []
    assert cloud.uploads(dead) == cloud.uploads(good) == []


async def test_directories(image: Path, key_ring: KeyRing, tmp_path: Path) -> None:
    """Two directories get the same bundle."""
    asked = request(image, "", key_ring, destinations=[str(tmp_path / "a"), str(tmp_path / "b")])
    job = await run(asked, settings(tmp_path, region="eu-west-1"))
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
        parse_bundle_request({"source": "/disk.img", "destinations": destinations})
