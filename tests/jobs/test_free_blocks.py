"""Whole jobs on file systems with deleted files: their data is in no bundle, and everything else is."""

from __future__ import annotations

import random
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from amistream.checks.boot.of_request import BootChecks
from amistream.checks.source import SourceChecks
from amistream.events import BundleResult, State
from amistream.values import MIB, LeftOut
from jobs.runs import ANEW
from jobs.work import request, run, settings
from support.deleted_files import check_file_system, make_file_system, markers
from support.mounts import mounted
from support.referee import check_bundle, check_parts, check_signature, decrypted, read_bundle
from support.volumes import loop_device

if TYPE_CHECKING:
    from pathlib import Path

    from amistream.jobs.job import Job
    from jobs.runs import MakeScene
    from support.deleted_files import Files
    from support.keys import KeyRing

EXT4_SIZE, XFS_SIZE = 16 * MIB, 304 * MIB
TAIL, GAP, UNKNOWN = MIB, 2 * MIB, MIB
FIRST = MIB
SECOND = FIRST + EXT4_SIZE + TAIL + GAP
"""Where the file systems of the disk begin."""
PARTITIONS = ((FIRST, EXT4_SIZE + TAIL), (SECOND, XFS_SIZE), (SECOND + XFS_SIZE, UNKNOWN))
NOISE = ((40 * 512, FIRST - 40 * 512), (FIRST + EXT4_SIZE, TAIL + GAP), (SECOND + XFS_SIZE, 2 * MIB))
"""All of the disk that is in neither a file system nor a table."""


@pytest.fixture(autouse=True)
def _not_to_boot(monkeypatch: pytest.MonkeyPatch) -> None:
    """These volumes hold no systems, and the notices say so."""
    monkeypatch.setattr(BootChecks, "for_job", lambda _: [])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("free-blocks")


@pytest.fixture(scope="module")
def ext4(folder: Path) -> tuple[Path, Files]:
    """Blocks of 1 KiB, so that used and free ones share the 4 KiB of the archive's alignment."""
    image = folder / "ext4.img"
    return image, make_file_system(image, "ext4", EXT4_SIZE, "-b", "1024", preallocate=True)


@pytest.fixture(scope="module")
def xfs(folder: Path) -> tuple[Path, Files]:
    image = folder / "xfs.img"
    return image, make_file_system(image, "xfs", XFS_SIZE)


def noise(size: int) -> bytes:
    return random.Random(size).randbytes(size)


def unpacked(directory: Path, keys: KeyRing, to: Path) -> Path:
    """The image of the one bundle in a directory, unpacked by the referee's programs."""
    bundle = read_bundle(directory, keys.user.key)
    check_parts(bundle)
    check_signature(bundle, keys.user.certificate)
    to.mkdir()
    with decrypted(bundle) as stream:
        subprocess.run(["tar", "-xzf", "-", "-C", to], stdin=stream, check=True)
    return to / bundle.name


async def done(image: Path, tmp_path: Path, keys: KeyRing, **changes: object) -> tuple[Job, Path]:
    """The job that bundled the image, and the image that comes back."""
    job = await run(request(image, tmp_path / "out", keys, **changes), settings(tmp_path))
    assert job.state is State.DONE, job.error
    return job, unpacked(tmp_path / "out", keys, tmp_path / "back")


async def test_ext4(ext4: tuple[Path, Files], tmp_path: Path, key_ring: KeyRing) -> None:
    """Deleted data is nowhere, not even in preallocated blocks or small gaps; all files are whole."""
    image, files = ext4
    job, back = await done(image, tmp_path, key_ring)
    assert markers(back) == 0
    check_file_system(back, "ext4", files)
    assert isinstance(job.result, BundleResult)
    left_out = job.result.left_out
    assert left_out is not None
    assert left_out.preallocated == 2 * MIB
    assert left_out.free > MIB
    read = job.result.stages[0].bytes_out
    assert left_out.total < EXT4_SIZE - 200 * 3 * 1024
    assert read >= EXT4_SIZE - left_out.total
    assert job.notices == ()


@pytest.fixture(scope="module")
def disk(folder: Path, ext4: tuple[Path, Files], xfs: tuple[Path, Files]) -> Path:
    """A GPT disk: ext4 with a tail behind it, a gap, xfs, and a partition of unknown content. All outside is noise."""
    if shutil.which("sfdisk") is None:
        pytest.skip("sfdisk is not installed")
    path = folder / "disk.img"
    with path.open("wb") as file:
        file.truncate(SECOND + XFS_SIZE + 4 * MIB)
    lines = (f"{start // 512},{size // 512},L" for start, size in PARTITIONS)
    subprocess.run(["sfdisk", "--quiet", path], input="\n".join(["label: gpt", *lines]), text=True, check=True)
    with path.open("r+b") as file:
        for start, size in NOISE:
            file.seek(start)
            file.write(noise(size))
    for image, start in ((ext4[0], FIRST), (xfs[0], SECOND)):
        where = ["conv=notrunc,sparse", "bs=64k", f"seek={start // MIB * 16}"]
        subprocess.run(["dd", f"if={image}", f"of={path}", "status=none", *where], check=True)
    return path


async def test_a_disk(
    disk: Path, ext4: tuple[Path, Files], xfs: tuple[Path, Files], tmp_path: Path, key_ring: KeyRing
) -> None:
    """Everything but deleted data comes back: boot area, tail, gap, unknown partition and tables too."""
    job, back = await done(disk, tmp_path, key_ring)
    assert markers(back) == 0
    check_file_system(back, "ext4", ext4[1], offset=FIRST, size=EXT4_SIZE)
    check_file_system(back, "xfs", xfs[1], offset=SECOND, size=XFS_SIZE)
    with disk.open("rb") as ours, back.open("rb") as theirs:
        for start, end in ((0, FIRST), (FIRST + EXT4_SIZE, SECOND), (SECOND + XFS_SIZE, disk.stat().st_size)):
            ours.seek(start)
            theirs.seek(start)
            assert ours.read(end - start) == theirs.read(end - start)
    unknown, preallocated = job.notices
    assert unknown.startswith("partition 3 is taken with its free blocks, because its content is not known")
    assert preallocated.startswith("partition 2 (xfs): blocks that files were given and never wrote")


async def test_never(ext4: tuple[Path, Files], tmp_path: Path, key_ring: KeyRing) -> None:
    """With `--sparse never` every byte comes back, deleted data too."""
    image, _ = ext4
    job, _ = await done(image, tmp_path, key_ring, sparse="never")
    check_bundle(tmp_path / "out", image, key_ring.user.key, key_ring.user.certificate)
    assert isinstance(job.result, BundleResult)
    assert job.result.left_out == LeftOut()


async def test_resumed(ext4: tuple[Path, Files], make_scene: MakeScene, tmp_path: Path, key_ring: KeyRing) -> None:
    """A resumed job goes on with the used blocks that its first run found, and reports them."""
    image, files = ext4
    async with make_scene() as scene:
        job = await scene.run(scene.request(source=str(image)), room=1)
        assert job.resumable, job.error
        job = await scene.again(job)
    assert job.state is State.DONE, job.error
    assert isinstance(job.result, BundleResult)
    assert job.result.compression["resumed"] > 0
    assert job.result.left_out is not None
    assert job.result.left_out.preallocated == 2 * MIB
    back = unpacked(tmp_path / "out", key_ring, tmp_path / "back")
    assert markers(back) == 0
    check_file_system(back, "ext4", files)


async def test_holes_that_count_as_data_later(
    ext4: tuple[Path, Files], make_scene: MakeScene, tmp_path: Path, key_ring: KeyRing
) -> None:
    """A resumed job goes on if a hole has become zeros, as one of a preallocated file does once it was read."""
    image, files = tmp_path / "filled.img", ext4[1]
    subprocess.run(["cp", "--sparse=always", ext4[0], image], check=True)
    async with make_scene() as scene:
        job = await scene.run(scene.request(source=str(image)), room=1)
        assert job.resumable, job.error
        shutil.copyfile(image, tmp_path / "dense.img")
        (tmp_path / "dense.img").replace(image)
        job = await scene.again(job)
    assert job.state is State.DONE, job.error
    assert not [notice for notice in job.notices if ANEW in notice]
    back = unpacked(tmp_path / "out", key_ring, tmp_path / "back")
    assert markers(back) == 0
    check_file_system(back, "ext4", files)


async def test_begun_by_an_older_version(
    ext4: tuple[Path, Files], make_scene: MakeScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job that a version without free blocks began goes on as it began, and bundles every byte."""
    image, _ = ext4
    async with make_scene() as scene:
        with monkeypatch.context() as older:
            older.setattr(SourceChecks, "_find_free_blocks", lambda _: "not looked for")
            job = await scene.run(scene.request(source=str(image)), room=1)
        assert job.resumable, job.error
        job = await scene.again(job)
        assert job.state is State.DONE, job.error
        assert not [notice for notice in job.notices if ANEW in notice]
        assert isinstance(job.result, BundleResult)
        assert job.result.compression["resumed"] > 0
        check_bundle(scene.out, image, scene.keys.user.key, scene.keys.user.certificate)


async def test_written_to_between_two_runs(
    ext4: tuple[Path, Files], make_scene: MakeScene, tmp_path: Path, key_ring: KeyRing
) -> None:
    """A job whose device gets a new file in blocks that were free starts over, and bundles it."""
    image, files = shutil.copyfile(ext4[0], tmp_path / "written.img"), dict(ext4[1])
    with loop_device(image, read_only=False) as device:
        async with make_scene() as scene:
            job = await scene.run(scene.request(source=str(device)), room=1)
            assert job.resumable, job.error
            with mounted(device, tmp_path / "mounted") as where:
                files["new"] = noise(300_000)
                (where / "new").write_bytes(files["new"])
            job = await scene.again(job)
    assert job.state is State.DONE, job.error
    assert [notice for notice in job.notices if ANEW in notice]
    back = unpacked(tmp_path / "out", key_ring, tmp_path / "back")
    assert markers(back) == 0
    check_file_system(back, "ext4", files)
