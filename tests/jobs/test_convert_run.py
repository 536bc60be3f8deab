"""Conversions to EBS in this process: their whole life, and what comes of them when they meet trouble."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from amistream.events import ConversionResult, JobKind, State
from amistream.jobs.convert_run import MOST_ATTEMPTS
from amistream.ports.snapshots import BLOCK

if TYPE_CHECKING:
    from pathlib import Path

    from jobs.converting import Conversions
    from jobs.runs import Scene


async def test_a_disk(scene: Scene, conversions: Conversions) -> None:
    """A disk becomes a snapshot of the same bytes and an AMI; blocks of zeros are not sent."""
    blocks, size = conversions.blocks, conversions.disk.stat().st_size
    job = await scene.run(conversions.request())
    result = conversions.fits(job)
    assert (job.view().kind, result.image_size, result.volume_size) == (JobKind.CONVERT, size, 1 << 30)
    assert (result.blocks, result.blocks_put, result.image_name) == (len(blocks), len(blocks), "web 1")
    assert sorted(conversions.puts()) == blocks
    assert [stage.name for stage in result.stages] == ["read", "hash", "put"]
    assert job.progress is not None
    assert (job.progress.stored_share, job.progress.bytes_done) == (1.0, size)
    assert job.progress.blocks_stored == job.progress.blocks_made >= len(blocks)


def put(index: int) -> dict[str, Any]:
    """A fault of the puts of a block."""
    return {"operation": "PutSnapshotBlock", "index": index, "times": None}


async def test_no_ami(scene: Scene, conversions: Conversions) -> None:
    """Without registration the job ends with a snapshot that can be listed, and no AMI."""
    conversions.endpoint.set(completion_polls=2, unlisted_requests=3)
    job = await scene.run(conversions.request(register_image=False, ami_name=None))
    result = conversions.fits(job)
    assert (result.image_id, result.image_name) == (None, None)
    assert job.state is State.DONE
    listings = [each["status"] for each in conversions.endpoint.requests("ListSnapshotBlocks")]
    assert listings[:5] == [404, 404, 404, 404, 200]


async def test_zeros_only(scene: Scene, conversions: Conversions, tmp_path: Path) -> None:
    """An image of zeros becomes a snapshot without blocks."""
    image = tmp_path / "zeros.img"
    image.write_bytes(bytes(3 * BLOCK + 1))
    result = conversions.fits(await scene.run(conversions.request(image, register_image=False, ami_name=None)), image)
    assert (result.blocks, result.blocks_put) == (0, 0)


async def test_a_bundle(scene: Scene, conversions: Conversions) -> None:
    """A bundle becomes a snapshot of its image, after its signature and digests are proved."""
    made = await scene.run(scene.request(source=str(conversions.disk), part_size="1MiB"))
    assert made.state is State.DONE, made.error
    manifest = scene.out / "image.manifest.xml"
    job = await scene.run(conversions.request(manifest, private_key=str(scene.keys.user.key), certificate=None))
    result = conversions.fits(job)
    assert result.blocks == len(conversions.blocks)


@pytest.mark.parametrize(("number", "share"), [(-2, 0.5), (-1, 0.5), (-1, 1)])
async def test_a_bundle_that_is_not_as_it_was_signed(
    number: int, share: float, scene: Scene, conversions: Conversions
) -> None:
    """A bundle with a changed part is never completed, be it its last byte, and its snapshot is deleted."""
    made = await scene.run(scene.request(source=str(conversions.disk), part_size="1MiB"))
    assert made.state is State.DONE, made.error
    part = sorted(scene.out.glob("*.part.*"))[number]
    data = bytearray(part.read_bytes())
    data[int((len(data) - 1) * share)] ^= 1
    part.write_bytes(data)
    manifest = scene.out / "image.manifest.xml"
    job = await scene.run(conversions.request(manifest, private_key=str(scene.keys.user.key)))
    assert (job.state, job.resumable) == (State.FAILED, False)
    assert conversions.endpoint.requests("CompleteSnapshot") == []
    assert conversions.left() == []


async def test_what_is_not_visible_yet(scene: Scene, conversions: Conversions) -> None:
    """A snapshot that EBS does not know after its start, and an AMI that EC2 does not show yet, are waited for."""
    conversions.endpoint.set(unknown_requests=12, unseen_image_requests=2, pending_image_requests=2)
    conversions.fits(await scene.run(conversions.request()))


async def test_an_empty_one_that_is_not_visible_yet(scene: Scene, conversions: Conversions, tmp_path: Path) -> None:
    """The completion of a snapshot that is not known everywhere yet is repeated."""
    image = tmp_path / "zeros.img"
    image.write_bytes(bytes(BLOCK))
    fault: dict[str, Any] = {
        "status": 404,
        "code": "ResourceNotFoundException",
        "reason": "SNAPSHOT_NOT_FOUND",
        "times": 9,
    }
    conversions.endpoint.fault("CompleteSnapshot", **fault)
    conversions.fits(await scene.run(conversions.request(image, register_image=False, ami_name=None)), image)


@pytest.mark.parametrize("operation", ["StartSnapshot", "CompleteSnapshot", "RegisterImage", "PutSnapshotBlock"])
@pytest.mark.parametrize("do", ["lose", "error"])
async def test_answers_that_do_not_come(do: str, operation: str, scene: Scene, conversions: Conversions) -> None:
    """One snapshot and one AMI are there in the end, whether a request without an answer was done or not."""
    # The first registration is a dry run.
    first = 2 if operation == "RegisterImage" else 1
    conversions.endpoint.fault(operation, do, nth=first)
    conversions.fits(await scene.run(conversions.request()))
    if (do, operation) != ("lose", "RegisterImage"):
        assert len(conversions.endpoint.requests(operation)) > first


async def test_a_start_that_is_refused(scene: Scene, conversions: Conversions) -> None:
    """A refused start fails the job once, with the cause, and nothing has to be removed."""
    conversions.endpoint.fault("StartSnapshot", status=403, code="AccessDeniedException", times=None)
    job = await scene.run(conversions.request())
    assert job.error is not None
    assert (job.state, job.resumable) == (State.FAILED, False)
    assert "ebs:StartSnapshot" in job.error.hint
    assert len(conversions.endpoint.requests("StartSnapshot")) == 1
    assert conversions.endpoint.requests("DeleteSnapshot") == []


async def test_an_endpoint_that_is_not_there(scene: Scene, conversions: Conversions) -> None:
    """A start that never arrived leaves nothing to remove, so the removal asks nobody."""
    address = "http://127.0.0.1:9"
    job = await scene.run(conversions.request(register_image=False, ami_name=None, endpoint_url=address))
    assert job.error is not None
    assert (job.state.value, job.error.code, job.resumable) == ("failed", "aws.unreachable", False)
    assert [notice for notice in job.notices if "removed" in notice] == []


async def test_blocks_that_are_refused(scene: Scene, conversions: Conversions) -> None:
    """A conversion whose blocks are refused keeps those that are stored, and a later run sends the others only."""
    blocks = conversions.blocks
    fault = put(blocks[-1])
    conversions.endpoint.fault(**fault, status=403, code="AccessDeniedException")
    job = await scene.run(conversions.request())
    assert job.error is not None
    assert (job.state, job.resumable) == (State.FAILED, True)
    assert "stored blocks are kept" in job.error.hint
    stored = len(set(conversions.puts()))
    view = job.view()
    assert 0 < view.kept_blocks <= stored < len(blocks)
    assert view.kept_parts == 0
    conversions.endpoint.clear_faults()
    result = conversions.fits(await scene.again(job))
    assert result.blocks_put == len(blocks) - view.kept_blocks
    assert result.blocks == len(blocks)


async def test_a_source_that_changed(scene: Scene, conversions: Conversions) -> None:
    """A later run reads the source again: the snapshot holds what it read, zeros in the place of former blocks too."""
    blocks = conversions.blocks
    conversions.endpoint.fault(**put(blocks[-1]), status=403, code="AccessDeniedException")
    job = await scene.run(conversions.request())
    assert job.resumable
    conversions.endpoint.clear_faults()
    with conversions.disk.open("r+b") as file:
        file.seek(blocks[3] * BLOCK)
        file.write(bytes(BLOCK))
        file.seek(blocks[5] * BLOCK + 7)
        file.write(b"another byte or two")
    result = conversions.fits(await scene.again(job))
    assert result.blocks in {len(blocks), len(blocks) - 1}


async def test_a_source_of_another_size(scene: Scene, conversions: Conversions) -> None:
    """A source that has grown gets another snapshot, and the first one is deleted, with a notice."""
    conversions.endpoint.fault(**put(conversions.blocks[-1]), status=403, code="AccessDeniedException")
    job = await scene.run(conversions.request(register_image=False, ami_name=None))
    conversions.endpoint.clear_faults()
    with conversions.disk.open("ab") as file:
        file.write(b"more" * 100_000)
    job = await scene.again(job)
    conversions.fits(job)
    assert any("another snapshot is begun" in notice for notice in job.notices)
    assert len({each["snapshot"] for each in conversions.endpoint.requests("PutSnapshotBlock")}) == 2


async def test_given_up_in_the_middle(scene: Scene, conversions: Conversions) -> None:
    """A snapshot that EBS gives up while it is written is replaced in the same run, with a notice."""
    conversions.endpoint.fault("PutSnapshotBlock", "time_out", nth=9)
    job = await scene.run(conversions.request())
    conversions.fits(job)
    assert any("EBS has given up the snapshot" in notice for notice in job.notices)


async def test_given_up_in_the_middle_of_a_bundle(scene: Scene, conversions: Conversions) -> None:
    """A bundle is unpacked again from its beginning for another snapshot."""
    made = await scene.run(scene.request(source=str(conversions.disk), part_size="1MiB"))
    assert made.state is State.DONE, made.error
    conversions.endpoint.fault("PutSnapshotBlock", "time_out", nth=9)
    manifest = scene.out / "image.manifest.xml"
    job = await scene.run(conversions.request(manifest, private_key=str(scene.keys.user.key)))
    conversions.fits(job)
    assert any("EBS has given up the snapshot" in notice for notice in job.notices)


async def test_given_up_meanwhile(scene: Scene, conversions: Conversions) -> None:
    """A snapshot that EBS gave up between two runs is replaced."""
    conversions.endpoint.fault(**put(conversions.blocks[-1]), status=403, code="AccessDeniedException")
    job = await scene.run(conversions.request())
    conversions.endpoint.clear_faults()
    conversions.endpoint.set_state(conversions.left()[0], "error", "Timeout")
    job = await scene.again(job)
    result = conversions.fits(job)
    assert result.blocks_put == len(conversions.blocks)
    assert any("EBS has given up the snapshot" in notice for notice in job.notices)


async def test_given_up_every_time(scene: Scene, conversions: Conversions) -> None:
    """A run does not begin snapshots for ever."""
    conversions.endpoint.fault("PutSnapshotBlock", "time_out", nth=3, times=None)
    job = await scene.run(conversions.request())
    assert (job.state, job.resumable) == (State.FAILED, False)
    assert len(conversions.endpoint.requests("StartSnapshot")) == MOST_ATTEMPTS
    assert conversions.left() == []


async def test_a_registration_that_is_refused(scene: Scene, conversions: Conversions) -> None:
    """The snapshot of a conversion whose AMI is refused is kept; a later run registers, and reads nothing again."""
    conversions.endpoint.fault("RegisterImage", status=403, code="UnauthorizedOperation", nth=2, times=None)
    job = await scene.run(conversions.request())
    assert job.error is not None
    assert (job.state, job.resumable, job.error.code) == (State.FAILED, True, "aws.UnauthorizedOperation")
    assert isinstance(job.result, ConversionResult)
    conversions.endpoint.clear_faults()
    puts = len(conversions.puts())
    spare = conversions.copy("spare.img")
    conversions.disk.unlink()
    conversions.fits(await scene.again(job), spare)
    assert len(conversions.puts()) == puts


async def test_removed_after_a_refused_registration(scene: Scene, conversions: Conversions) -> None:
    """A cancel of the kept job deletes its snapshot, unless somebody registered an AMI from it by hand."""
    conversions.endpoint.fault("RegisterImage", status=403, code="UnauthorizedOperation", nth=2, times=None)
    job = await scene.run(conversions.request())
    conversions.endpoint.clear_faults()
    (snapshot,) = conversions.endpoint.snapshots()
    with conversions.endpoint.blocking_client("ec2") as ec2:
        ebs = {"SnapshotId": snapshot["id"]}
        mapping = [{"DeviceName": "/dev/xvda", "Ebs": ebs}]
        image = ec2.register_image(Name="mine", RootDeviceName="/dev/xvda", BlockDeviceMappings=mapping)["ImageId"]
        cleaned = await scene.clean(job)
        assert (cleaned.state, cleaned.resumable) == (State.FAILED, True)
        assert image in cleaned.notices[-1]
        assert conversions.left() == [snapshot["id"], image]
        ec2.deregister_image(ImageId=image)
    assert (await scene.clean(job)).state is State.CANCELLED
    assert conversions.left() == []


async def test_a_completion_that_takes_too_long(scene: Scene, conversions: Conversions) -> None:
    """A snapshot that is not completed in time is kept; a later run waits on, and reads nothing again."""
    conversions.endpoint.set(completion_polls=10_000)
    job = await scene.run(conversions.request())
    assert job.error is not None
    assert (job.state, job.resumable, job.error.code) == (State.FAILED, True, "snapshot.timeout")
    conversions.endpoint.set(completion_polls=0)
    puts = len(conversions.puts())
    conversions.fits(await scene.again(job))
    assert len(conversions.puts()) == puts


async def test_a_snapshot_that_may_not_be_listed(scene: Scene, conversions: Conversions) -> None:
    """Credentials that may not read snapshots are enough for a conversion, with a notice."""
    conversions.endpoint.fault("ListSnapshotBlocks", nth=2, status=403, code="AccessDeniedException")
    job = await scene.run(conversions.request())
    conversions.fits(job)
    assert any(notice.startswith("not known: whether the blocks of snap-") for notice in job.notices)


async def test_a_completion_that_fails(scene: Scene, conversions: Conversions) -> None:
    """A snapshot that ends in the state error when it is completed is removed, with EBS's reason."""
    conversions.endpoint.set(completion_polls=10_000)
    job = await scene.enter(conversions.request())
    running = asyncio.create_task(scene.engine.run(job))
    await asyncio.to_thread(conversions.endpoint.wait_for, "CompleteSnapshot")
    conversions.endpoint.set_state(conversions.left()[0], "error", "the key is gone")
    await running
    assert job.error is not None
    assert (job.state, job.resumable, job.error.code) == (State.FAILED, False, "snapshot.failed")
    assert "the key is gone" in job.error.message
    assert conversions.left() == []
