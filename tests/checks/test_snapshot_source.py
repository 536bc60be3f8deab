"""Checks of an EBS snapshot as the source of a job."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from amistream.ports.volume import Kind
from amistream.roots import Roots
from amistream.values import GIB, MIB, Extent
from checks.conversions import Desk
from jobs.work import use_endpoint
from support.boot_disks import partitioned
from support.volumes import random_image

if TYPE_CHECKING:
    from pathlib import Path

    from checks.scene import Scene
    from support.ebs_endpoint import EbsEndpoint

ABSENT = "snap-0123456789abcdef0"


@pytest.fixture
def ebs(ebs_endpoint: EbsEndpoint, monkeypatch: pytest.MonkeyPatch) -> EbsEndpoint:
    use_endpoint(ebs_endpoint, monkeypatch)
    return ebs_endpoint


async def test_a_snapshot_passes(scene: Scene, ebs: EbsEndpoint) -> None:
    """A completed snapshot of the region passes all checks of a bundle."""
    made = ebs.make_snapshot(scene.image)
    async with scene.ready(scene.out, source=made, settings={"endpoint_url": ebs.url}) as ready:
        assert (ready.volume.kind, ready.volume.size) == (Kind.SNAPSHOT, GIB)
        assert ready.used == (Extent(offset=0, length=MIB),)
    assert scene.notices == []


async def test_members_read_no_snapshots(scene: Scene, ebs: EbsEndpoint) -> None:
    """A confined job, which would read with the daemon's credentials, is refused a snapshot."""
    roots = Roots([scene.tmp_path, scene.keys.user.key.parent])
    error = await scene.refused(scene.out, source=ABSENT, roots=roots, settings={"endpoint_url": ebs.url})
    assert (error.code, error.field) == ("source.snapshot_forbidden", "source")
    assert "--in-process" in error.hint
    assert ebs.requests() == []


async def test_an_absent_snapshot(scene: Scene, ebs: EbsEndpoint) -> None:
    """A snapshot that the region does not have is refused."""
    hint = await scene.hint(
        scene.out, code="source.missing", says=ABSENT, source=ABSENT, settings={"endpoint_url": ebs.url}
    )
    assert "--region" in hint


async def test_no_region(scene: Scene, ebs: EbsEndpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a region the option for it is named."""
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name)
    error = await scene.refused(scene.out, source=ABSENT, settings={"endpoint_url": ebs.url})
    assert (error.code, error.field) == ("region.missing", "region")


async def test_no_credentials(scene: Scene, ebs: EbsEndpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without credentials a snapshot cannot be read, wherever its bundle goes."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    error = await scene.refused(scene.out, source=ABSENT, settings={"endpoint_url": ebs.url})
    assert error.code == "aws.credentials"


async def test_memory_for_a_snapshot(scene: Scene, ebs: EbsEndpoint) -> None:
    """The blocks that are read ahead count for the memory limit."""
    made = ebs.make_snapshot(scene.image)
    chosen = {"endpoint_url": ebs.url, "memory_limit": "170MiB"}
    async with scene.ready(scene.out, settings=chosen, part_size="1MiB", workers=1, upload_concurrency=64) as ready:
        of_file = ready.plan.upload_concurrency
    async with scene.ready(
        scene.out, source=made, settings=chosen, part_size="1MiB", workers=1, upload_concurrency=64
    ) as ready:
        of_snapshot = ready.plan.upload_concurrency
    assert 0 < of_snapshot < of_file


async def test_a_snapshot_converts(ebs: EbsEndpoint, tmp_path: Path) -> None:
    """A snapshot is a source of `convert`, too."""
    disk = partitioned(random_image(tmp_path / "disk.img", 4 * MIB), "mbr").path
    made = ebs.make_snapshot(disk)
    async with Desk(tmp_path, ebs).ready(made) as ready:
        assert (ready.image_size, ready.order.volume_gib, ready.region) == (GIB, 1, ebs.region)
