"""Whole jobs whose volume is an EBS snapshot."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from amistream.checks.boot.of_request import BootChecks
from amistream.events import BundleResult, ConversionResult, State
from amistream.ports.snapshots import BLOCK
from amistream.source.extents import find_data
from amistream.values import GIB, MIB
from jobs.converting import Conversions, make_disk
from jobs.work import request, run, settings, use_endpoint
from support.referee import check_parts, check_signature, decrypted, read_bundle
from support.volumes import ext4_image, sparse_image

if TYPE_CHECKING:
    from jobs.runs import Scene
    from support.ebs_endpoint import EbsEndpoint
    from support.keys import KeyRing
    from support.referee import Bundle

SIZE = 16 * MIB
"""Bytes of the file system in a snapshot of a GiB."""


@pytest.fixture(autouse=True)
def _not_to_boot(monkeypatch: pytest.MonkeyPatch) -> None:
    """These volumes hold no systems, and the notices say so."""
    monkeypatch.setattr(BootChecks, "for_job", lambda _: [])


@dataclass(frozen=True)
class Jobs:
    """Makes bundles in directories, with EBS at the double."""

    endpoint: EbsEndpoint
    keys: KeyRing
    tmp_path: Path

    async def bundled(self, source: Path | str, name: str, **changes: object) -> tuple[BundleResult, Bundle]:
        to = self.tmp_path / name
        asked = request(Path(source), to, self.keys, register_image=False, **changes)
        job = await run(asked, settings(self.tmp_path, endpoint_url=self.endpoint.url, part_size="2MiB"))
        assert job.state is State.DONE, job.error
        assert isinstance(job.result, BundleResult)
        bundle = read_bundle(to, self.keys.user.key)
        check_parts(bundle)
        check_signature(bundle, self.keys.user.certificate)
        return job.result, bundle

    def started_at(self, snapshot: str) -> int:
        with self.endpoint.blocking_client("ec2") as ec2:
            (found,) = ec2.describe_snapshots(SnapshotIds=[snapshot])["Snapshots"]
        return int(found["StartTime"].timestamp())


@pytest.fixture
def jobs(ebs_endpoint: EbsEndpoint, key_ring: KeyRing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Jobs:
    use_endpoint(ebs_endpoint, monkeypatch)
    return Jobs(ebs_endpoint, key_ring, tmp_path)


async def test_the_bundle_of_a_snapshot_is_that_of_its_disk(jobs: Jobs) -> None:
    """The bundle of a snapshot has the digest, the parts and the sizes of the bundle of the same disk in a file."""
    disk = sparse_image(jobs.tmp_path / "disk", 66 * MIB, ((0, 3 * BLOCK), (7 * BLOCK, BLOCK), (64 * MIB, 2 * MIB)))
    snapshot = jobs.endpoint.make_snapshot(disk)
    os.truncate(disk, GIB)
    os.utime(disk, (jobs.started_at(snapshot),) * 2)
    of_snapshot, in_snapshot = await jobs.bundled(snapshot, "of-snapshot")
    of_file, in_file = await jobs.bundled(disk, "of-file")
    assert of_snapshot.image_size == of_file.image_size == GIB
    assert in_snapshot.tar_sha1 == in_file.tar_sha1
    assert [part.path.stat().st_size for part in in_snapshot.parts] == [
        part.path.stat().st_size for part in in_file.parts
    ]
    assert of_snapshot.left_out == of_file.left_out


async def test_free_blocks_of_a_snapshot(jobs: Jobs) -> None:
    """Free blocks of the file system in a snapshot are left out, and the disk comes back as it was."""
    disk = ext4_image(jobs.tmp_path / "disk", SIZE)
    snapshot = jobs.endpoint.make_snapshot(disk)
    os.truncate(disk, GIB)
    result, bundle = await jobs.bundled(snapshot, "out")
    assert result.left_out is not None
    (jobs.tmp_path / "back").mkdir()
    with decrypted(bundle) as stream:
        subprocess.run(["tar", "-xzf", "-", "-C", jobs.tmp_path / "back"], stdin=stream, check=True)
    back = jobs.tmp_path / "back" / bundle.name
    subprocess.run(["cmp", "-n", f"{SIZE}", back, disk], check=True)
    with back.open("rb") as file:
        assert find_data(file.fileno(), GIB)[-1].end <= SIZE


async def test_a_snapshot_of_a_snapshot(scene: Scene, jobs: Jobs) -> None:
    """A snapshot is converted into another one with the same blocks, and an AMI."""
    disk = make_disk(jobs.tmp_path / "disk.img")
    first = jobs.endpoint.make_snapshot(disk)
    conversions = Conversions(disk=disk, endpoint=jobs.endpoint, directory=jobs.tmp_path)
    job = await scene.run(conversions.request(Path(first)))
    assert job.state is State.DONE, job.error
    assert isinstance(job.result, ConversionResult)
    assert (job.result.image_size, job.result.blocks) == (GIB, len(conversions.blocks))
    conversions.holds(job.result.snapshot_id)


async def test_a_job_goes_on_after_a_failure(scene: Scene, jobs: Jobs) -> None:
    """A job on a snapshot that failed between two parts is resumed, and sends no part again."""
    snapshot = jobs.endpoint.make_snapshot(sparse_image(jobs.tmp_path / "disk", 4 * MIB, ((0, 4 * MIB),)))
    asked = scene.request(source=snapshot, endpoint_url=jobs.endpoint.url, register_image=False, part_size="1MiB")
    job = await scene.run(asked, room=2)
    assert (job.state, job.resumable) == (State.FAILED, True), job.error
    job = await scene.again(job)
    assert job.state is State.DONE, job.error
    assert isinstance(job.result, BundleResult)
    assert job.result.compression["resumed"] > 0
