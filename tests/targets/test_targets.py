"""The targets of an image: a new file, an unused device, another program; no unfinished image is left."""

from __future__ import annotations

import asyncio
import os
import stat
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from amistream.aws.session import Aws
from amistream.bundles.meter import Meter
from amistream.bundles.owner import find_owner
from amistream.bundles.place import find_bundle, open_place
from amistream.bundles.results import Unbundled
from amistream.bundles.unbundle import unbundle
from amistream.errors import AmistreamError, DifferenceError, JobError, RefusedError
from amistream.location import parse_manifest_address
from amistream.stages.back.unarchive import Piece
from amistream.targets import device as device_module
from amistream.targets import stream
from amistream.targets.blocks import BLOCK, IN_FLIGHT
from amistream.targets.device import DeviceTarget
from amistream.targets.file import FileTarget
from amistream.targets.opening import choose_target
from amistream.targets.stream import StreamTarget
from bundles.made import flip, put_files, unbundle_at
from bundles.shell_bundle import Faults, shell_bundle
from jobs.work import settings, use_endpoint
from support.proxy import Fault, PauseReply
from support.volumes import ext4_image, loop_device, sparse_image

if TYPE_CHECKING:
    from conftest import MakeBucket, MakeProxy
    from support.endpoints import Endpoint
    from support.keys import KeyRing

KIB, MIB = 1024, 1024 * 1024
PATIENCE_S = 120


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """3 MiB with data at the beginning, in the middle and at the very end."""
    extents = [(0, 100 * KIB), (MIB + 4 * KIB, 300 * KIB), (3 * MIB - 8 * KIB, 8 * KIB)]
    return sparse_image(tmp_path / "disk.img", 3 * MIB, extents)


@pytest.fixture
def manifest(image: Path, key_ring: KeyRing, tmp_path: Path) -> Path:
    return shell_bundle(tmp_path / "bundle", image, key_ring)


@pytest.fixture
def bad(image: Path, key_ring: KeyRing, tmp_path: Path) -> Path:
    """Make a bundle whose digest is wrong, which shows only at the end."""
    return shell_bundle(tmp_path / "bad", image, key_ring, faults=Faults(digest="ab" * 20))


@pytest.fixture
def take_out(key_ring: KeyRing, tmp_path: Path) -> Callable[..., Any]:
    async def take_out(manifest: Path | str, to: Path | str, *, force: bool = False, **more: Any) -> Unbundled:
        notes = more.pop("notes", [])
        return await unbundle_at(manifest, to, settings(tmp_path, **more), key_ring.user.key, notes=notes, force=force)

    return take_out


async def take_out_to(manifest: Path, target: Any, key_ring: KeyRing, tmp_path: Path, notes: list[str]) -> Unbundled:
    it = settings(tmp_path)
    folder, name = parse_manifest_address(str(manifest))
    owner = find_owner(it, None, key_ring.user.key)
    async with Aws(it) as aws:
        return await unbundle(
            await find_bundle(await open_place(folder, it, aws), name), owner, target, Meter(), notes.append
        )


def read_exactly(descriptor: int, size: int) -> None:
    while size:
        size -= len(os.read(descriptor, size))


class TestFiles:
    """Files."""

    async def test_a_file_that_is_there(
        self, manifest: Path, bad: Path, take_out: Any, tmp_path: Path, image: Path
    ) -> None:
        """An existing file is replaced only with force, and only by a proved image of the same mode."""
        there = tmp_path / "out" / "there.img"
        there.parent.mkdir()
        there.write_bytes(b"precious")
        there.chmod(0o640)
        with pytest.raises(RefusedError, match="it exists already") as raised:
            await take_out(manifest, there)
        assert raised.value.code == "target.exists"
        with pytest.raises(DifferenceError):
            await take_out(bad, there, force=True)
        assert (there.read_bytes(), list(there.parent.iterdir())) == (b"precious", [there])
        await take_out(manifest, there, force=True)
        assert (there.read_bytes(), list(there.parent.iterdir())) == (image.read_bytes(), [there])
        assert stat.S_IMODE(there.stat().st_mode) == 0o640

    @pytest.mark.parametrize("name", ["image.part.00", "image.manifest.xml"])
    async def test_the_bundle_itself(self, name: str, manifest: Path, take_out: Any, tmp_path: Path) -> None:
        """The bundle's own files are not overwritten, even with force or through a link."""
        own = manifest.with_name(name)
        before = own.read_bytes()
        link = tmp_path / "link.img"
        link.symlink_to(own)
        for there in (own, link):
            with pytest.raises(RefusedError, match=f"that is {name} of the bundle itself"):
                await take_out(manifest, there, force=True)
        assert own.read_bytes() == before

    async def test_a_name_of_many_bytes(self, manifest: Path, take_out: Any, tmp_path: Path, image: Path) -> None:
        """A name of 255 bytes, in letters of several bytes, can be used."""
        made = tmp_path / ("图" * 83 + ".img")
        await take_out(manifest, made)
        assert made.read_bytes() == image.read_bytes()

    @pytest.mark.parametrize("data", [KIB, 4 * KIB, 3 * MIB])
    async def test_a_little_data_here_and_there(
        self, data: int, take_out: Any, key_ring: KeyRing, tmp_path: Path
    ) -> None:
        """An image with little data in many blocks is restored, and stays sparse."""
        extents = [(number * BLOCK, data) for number in range(4 * IN_FLIGHT)]
        image = sparse_image(tmp_path / "disk.img", 4 * IN_FLIGHT * BLOCK, extents)
        manifest = shell_bundle(tmp_path / "bundle", image, key_ring, part_size=MIB, level=1)
        async with asyncio.timeout(PATIENCE_S):
            await take_out(manifest, tmp_path / "out.img")
        assert (tmp_path / "out.img").read_bytes() == image.read_bytes()
        assert (tmp_path / "out.img").stat().st_blocks <= image.stat().st_blocks + 4 * IN_FLIGHT * 16 * KIB // 512

    async def test_a_file_that_comes_meanwhile(
        self, manifest: Path, key_ring: KeyRing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A file that another process creates under that name meanwhile stays."""
        path = tmp_path / "out" / "new.img"
        path.parent.mkdir()
        target = FileTarget(path, replace=False)
        opened = target.open

        def open_then_lose(size: int, least: int) -> None:
            opened(size, least)
            path.write_bytes(b"somebody's")

        monkeypatch.setattr(target, "open", open_then_lose)
        with pytest.raises(RefusedError, match="it exists already"):
            await take_out_to(manifest, target, key_ring, tmp_path, [])
        assert (path.read_bytes(), list(path.parent.iterdir())) == (b"somebody's", [path])

    @pytest.mark.parametrize("number", [1, 95])
    async def test_without_hard_links(
        self, number: int, manifest: Path, image: Path, take_out: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Without hard links in the file system the file is renamed."""

        def no_links(*_: object, **__: object) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, "link", no_links)
        await take_out(manifest, tmp_path / "new.img")
        assert (tmp_path / "new.img").read_bytes() == image.read_bytes()

    async def test_a_name_that_is_not_given(
        self, manifest: Path, take_out: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """When the file cannot get its name, nothing stays."""

        def fail(*_: object, **__: object) -> None:
            raise OSError(5, "Input/output error")

        monkeypatch.setattr(os, "link", fail)
        (tmp_path / "out").mkdir()
        with pytest.raises(JobError, match="Input/output error"):
            await take_out(manifest, tmp_path / "out" / "disk.img")
        assert list((tmp_path / "out").iterdir()) == []

    async def test_a_link(self, manifest: Path, image: Path, take_out: Any, tmp_path: Path) -> None:
        """A symbolic link stays, and its target becomes the image."""
        link = tmp_path / "link"
        link.symlink_to(tmp_path / "target.img")
        await take_out(manifest, link)
        assert link.is_symlink()
        assert (tmp_path / "target.img").read_bytes() == image.read_bytes()

    @pytest.mark.parametrize("place", ["", "/dev/null", "missing/disk.img", "loop", "loop/disk.img"])
    async def test_no_place_for_a_file(self, place: str, manifest: Path, take_out: Any, tmp_path: Path) -> None:
        """A directory, a device of characters, a name in a missing directory, a link to itself are refused."""
        (tmp_path / "loop").symlink_to("loop")
        with pytest.raises(RefusedError) as raised:
            await take_out(manifest, tmp_path / place, force=True)
        assert raised.value.code == {"": "target.kind", "/dev/null": "target.kind"}.get(place, "target.unwritable")

    async def test_too_little_room(
        self, manifest: Path, take_out: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A file system that cannot hold even the compressed image is refused before anything is written."""
        statvfs = os.statvfs

        def full(path: Path) -> os.statvfs_result:
            return os.statvfs_result((*statvfs(path)[:3], 1, 1, *statvfs(path)[5:]))

        (tmp_path / "out").mkdir()
        monkeypatch.setattr(os, "statvfs", full)
        with pytest.raises(RefusedError, match="are free") as raised:
            await take_out(manifest, tmp_path / "out" / "disk.img")
        assert (raised.value.code, list((tmp_path / "out").iterdir())) == ("target.full", [])

    @pytest.mark.parametrize(("number", "code"), [(28, "target.full"), (5, "target.failed")])
    async def test_a_disk_that_fails(
        self, number: int, code: str, manifest: Path, take_out: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A full or failing disk ends the work, and nothing is left."""
        (tmp_path / "out").mkdir()

        def fail(*_: object) -> int:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, "pwrite", fail)
        with pytest.raises(JobError) as raised:
            await take_out(manifest, tmp_path / "out" / "disk.img")
        assert (raised.value.code, raised.value.exit_status) == (code, 4)
        assert list((tmp_path / "out").iterdir()) == []

    async def test_a_name_that_cannot_be_given(
        self, manifest: Path, take_out: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A failed fsync at the end leaves nothing."""
        (tmp_path / "out").mkdir()

        def fail(*_: object) -> None:
            raise OSError(5, "Input/output error")

        monkeypatch.setattr(os, "fsync", fail)
        with pytest.raises(JobError, match="Input/output error"):
            await take_out(manifest, tmp_path / "out" / "disk.img")
        assert list((tmp_path / "out").iterdir()) == []

    async def test_what_cannot_be_removed_is_told(
        self, bad: Path, take_out: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A note names an unfinished file that cannot be removed."""

        def fail(*_: object, **__: object) -> None:
            raise OSError(5, "Input/output error")

        notes: list[str] = []
        monkeypatch.setattr(os, "unlink", fail)
        with pytest.raises(DifferenceError):
            await take_out(bad, tmp_path / "new.img", notes=notes)
        assert ".new.img." in notes[0]
        assert not (tmp_path / "new.img").exists()

    async def test_a_cancel(
        self, moto_server: Endpoint, make_bucket: MakeBucket, make_proxy: MakeProxy, manifest: Path, take_out: Any,
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        """A cancelled unbundle leaves no file, no thread and no request behind."""
        use_endpoint(moto_server, monkeypatch)
        bucket = make_bucket(moto_server)
        put_files(moto_server, bucket, manifest.parent)
        held = Fault(action=PauseReply(), method="GET", path=r".*\.part\.03", times=None)
        proxy = make_proxy(moto_server, held)
        (tmp_path / "out").mkdir()
        address = f"s3://{bucket}/image.manifest.xml"
        work = asyncio.create_task(take_out(address, tmp_path / "out" / "disk.img", endpoint_url=proxy.endpoint.url))
        await asyncio.to_thread(proxy.wait_hit, held)
        assert [path.suffix for path in (tmp_path / "out").iterdir()] == [".partial"]
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
        assert list((tmp_path / "out").iterdir()) == []
        for thread in threading.enumerate():
            if thread.name.startswith(("amistream-line", "amistream-inflate")):
                await asyncio.to_thread(thread.join, 10)
                assert not thread.is_alive()
        await asyncio.to_thread(proxy.let_go, held)


class TestDevices:
    """Block devices."""

    @pytest.fixture
    def disk(self, tmp_path: Path) -> Path:
        """Make the file under the device: 5 MiB of old data."""
        path = tmp_path / "device.img"
        path.write_bytes(b"\xee" * 5 * MIB)
        return path

    async def test_there_and_back(self, manifest: Path, image: Path, disk: Path, take_out: Any) -> None:
        """A device gets the image, with zeros for holes; bytes behind it stay."""
        with loop_device(disk, read_only=False) as device:
            with pytest.raises(RefusedError, match="all that is on it") as raised:
                await take_out(manifest, device)
            assert raised.value.code == "target.device"
            result = await take_out(manifest, device, force=True)
            assert result.destination == str(device)
        content = disk.read_bytes()
        assert content[: 3 * MIB] == image.read_bytes()
        assert content[3 * MIB :] == b"\xee" * 2 * MIB

    async def test_without_the_kernels_help(
        self, manifest: Path, image: Path, disk: Path, take_out: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Zeros are written if the kernel does not make them."""
        monkeypatch.setattr(device_module, "zero_range", lambda *_: False)
        with loop_device(disk, read_only=False) as device:
            await take_out(manifest, device, force=True)
        assert disk.read_bytes()[: 3 * MIB] == image.read_bytes()

    async def test_an_image_that_is_wrong(self, bad: Path, disk: Path, take_out: Any) -> None:
        """A bad image leaves a device that begins with zeros, and a note says so."""
        notes: list[str] = []
        with loop_device(disk, read_only=False) as device:
            with pytest.raises(DifferenceError):
                await take_out(bad, device, force=True, notes=notes)
            assert notes == [f"{device} was overwritten and holds no image: it begins with zeros"]
        assert disk.read_bytes()[:MIB] == bytes(MIB)

    async def test_an_empty_image(self, disk: Path, key_ring: KeyRing, take_out: Any, tmp_path: Path) -> None:
        """An image that is one hole zeroes the device."""
        empty = sparse_image(tmp_path / "empty.img", 2 * MIB, [])
        manifest = shell_bundle(tmp_path / "empty", empty, key_ring)
        with loop_device(disk, read_only=False) as device:
            await take_out(manifest, device, force=True)
        assert disk.read_bytes() == bytes(2 * MIB) + b"\xee" * 3 * MIB

    async def test_what_cannot_be_written(self, manifest: Path, disk: Path, take_out: Any, tmp_path: Path) -> None:
        """A device that is too small or read-only is refused untouched."""
        small = tmp_path / "small.img"
        small.write_bytes(b"\xee" * MIB)
        with loop_device(small, read_only=False) as device:
            with pytest.raises(RefusedError) as raised:
                await take_out(manifest, device, force=True)
            assert raised.value.code == "target.small"
        with loop_device(disk) as device:
            with pytest.raises(RefusedError) as raised:
                await take_out(manifest, device, force=True)
            assert raised.value.code == "target.unwritable"
        assert small.read_bytes() == b"\xee" * MIB

    async def test_a_mounted_device(self, manifest: Path, take_out: Any, tmp_path: Path) -> None:
        """A device with a mounted file system is refused, even with force, and the mount point is named."""
        disk = ext4_image(tmp_path / "ext4.img", 8 * MIB)
        place = tmp_path / "mounted"
        place.mkdir()
        with loop_device(disk, read_only=False) as device:
            done = subprocess.run(["mount", device, place], capture_output=True, text=True, check=False)
            if done.returncode != 0:
                pytest.skip(f"no mounts here: {done.stderr.strip()}")
            try:
                with pytest.raises(RefusedError, match=str(place)) as raised:
                    await take_out(manifest, device, force=True)
            finally:
                subprocess.run(["umount", place], check=True)
            assert raised.value.code == "target.in_use"

    async def test_a_held_device(self, manifest: Path, disk: Path, take_out: Any) -> None:
        """A device that is opened exclusively elsewhere is refused."""
        with loop_device(disk, read_only=False) as device:
            holder = os.open(device, os.O_RDONLY | os.O_EXCL)
            try:
                with pytest.raises(RefusedError, match="holds it") as raised:
                    await take_out(manifest, device, force=True)
            finally:
                os.close(holder)
        assert raised.value.code == "target.in_use"
        assert disk.read_bytes() == b"\xee" * 5 * MIB

    async def test_a_device_that_fails(
        self, manifest: Path, disk: Path, take_out: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A device that cannot be synchronised holds no image."""

        def fail(_: int) -> None:
            raise OSError(5, "Input/output error")

        with loop_device(disk, read_only=False) as device:
            monkeypatch.setattr(os, "fsync", fail)
            with pytest.raises(AmistreamError, match="Input/output error"):
                await take_out(manifest, device, force=True)

    def test_a_target_that_was_not_opened(self, tmp_path: Path) -> None:
        """A target that was never opened has nothing to undo."""
        assert DeviceTarget(tmp_path / "x").abandon() == ""
        assert FileTarget(tmp_path / "x", replace=False).abandon() == ""
        assert StreamTarget(1).abandon() == ""


class TestStreams:
    """The standard output."""

    async def read_all(self, descriptor: int) -> bytes:
        def read() -> bytes:
            with os.fdopen(descriptor, "rb") as file:
                return file.read()

        return await asyncio.to_thread(read)

    async def test_a_pipe(self, manifest: Path, image: Path, key_ring: KeyRing, tmp_path: Path) -> None:
        """A pipe gets the whole image, and stays in blocking mode for other holders."""
        reading, writing = os.pipe()
        async with asyncio.TaskGroup() as group:
            read = group.create_task(self.read_all(reading))
            result = await take_out_to(manifest, StreamTarget(writing), key_ring, tmp_path, [])
            assert os.get_blocking(writing)
            os.close(writing)
        assert read.result() == image.read_bytes()
        assert result.destination == "-"

    async def test_a_file(self, manifest: Path, image: Path, key_ring: KeyRing, tmp_path: Path) -> None:
        """A file as standard output gets the whole image, from its current position."""
        with (tmp_path / "out").open("wb") as file:
            file.write(b"before")
            file.flush()
            await take_out_to(manifest, StreamTarget(file.fileno()), key_ring, tmp_path, [])
        assert (tmp_path / "out").read_bytes() == b"before" + image.read_bytes()

    async def test_a_manifest_that_tells_too_much(self, image: Path, key_ring: KeyRing, tmp_path: Path) -> None:
        """A wrong image size in the manifest does not fill the disk with zeros."""
        wrong = shell_bundle(tmp_path / "wrong", image, key_ring, faults=Faults(size=1 << 40))
        with (tmp_path / "out").open("wb") as file:
            with pytest.raises(DifferenceError, match="the image has 3145728 bytes"):
                await take_out_to(wrong, StreamTarget(file.fileno()), key_ring, tmp_path, [])
            assert file.tell() <= 3 * MIB

    async def test_a_reader_that_leaves(self, manifest: Path, key_ring: KeyRing, tmp_path: Path) -> None:
        """A reader that leaves early ends the work."""
        reading, writing = os.pipe()
        os.close(reading)
        try:
            with pytest.raises(JobError, match="Broken pipe"):
                await take_out_to(manifest, StreamTarget(writing), key_ring, tmp_path, [])
        finally:
            os.close(writing)

    async def test_a_reader_that_stands_still(self, manifest: Path, key_ring: KeyRing, tmp_path: Path) -> None:
        """A cancel works while the reader takes nothing, and a note counts the bytes already written."""
        reading, writing = os.pipe()
        notes: list[str] = []
        try:
            work = asyncio.create_task(take_out_to(manifest, StreamTarget(writing), key_ring, tmp_path, notes))
            await asyncio.to_thread(os.read, reading, 1)
            work.cancel()
            with pytest.raises(asyncio.CancelledError):
                await work
        finally:
            os.close(reading)
            os.close(writing)
        assert "they are not a valid image" in notes[0]

    async def test_a_reader_that_stands_still_before_the_last_hole(self, key_ring: KeyRing, tmp_path: Path) -> None:
        """A cancel works even when only zeros are left to be written."""
        image = sparse_image(tmp_path / "disk.img", 4 * MIB, [(0, 8 * KIB)])
        manifest = shell_bundle(tmp_path / "bundle", image, key_ring)
        reading, writing = os.pipe()
        try:
            work = asyncio.create_task(take_out_to(manifest, StreamTarget(writing), key_ring, tmp_path, []))
            await asyncio.to_thread(read_exactly, reading, 16 * KIB)
            work.cancel()
            async with asyncio.timeout(PATIENCE_S):
                with pytest.raises(asyncio.CancelledError):
                    await work
        finally:
            os.close(reading)
            os.close(writing)

    def test_a_stopped_one_takes_anything_at_once(self) -> None:
        """After a stop, writing returns at once, for data and for zeros."""
        reading, writing = os.pipe()
        try:
            target = StreamTarget(writing)
            target.open(1 << 40, 0)
            target.stop()
            target.write([Piece(1 << 39, memoryview(b"x"))])
            target.abandon()
        finally:
            os.close(reading)
            os.close(writing)

    async def test_a_full_pipe(
        self, manifest: Path, image: Path, key_ring: KeyRing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A pipe that is not ready is tried again."""
        reading, writing = os.pipe()
        write, tries = os.write, 0

        def write_now_and_then(descriptor: int, data: memoryview) -> int:
            nonlocal tries
            tries += 1
            if tries % 2:
                raise BlockingIOError
            return write(descriptor, data)

        monkeypatch.setattr(stream, "_POLL_MS", 0)
        monkeypatch.setattr(os, "write", write_now_and_then)
        async with asyncio.TaskGroup() as group:
            read = group.create_task(self.read_all(reading))
            await take_out_to(manifest, StreamTarget(writing), key_ring, tmp_path, [])
            os.close(writing)
        assert read.result() == image.read_bytes()

    async def test_a_difference_is_told_late(self, bad: Path, key_ring: KeyRing, tmp_path: Path) -> None:
        """A note says that bytes written before a difference was found are not a valid image."""
        reading, writing = os.pipe()
        notes: list[str] = []
        async with asyncio.TaskGroup() as group:
            group.create_task(self.read_all(reading))
            with pytest.raises(DifferenceError):
                await take_out_to(bad, StreamTarget(writing), key_ring, tmp_path, notes)
            os.close(writing)
        assert "they are not a valid image" in notes[0]

    def test_a_terminal(self) -> None:
        """A terminal is refused: an image is not text."""
        leader, follower = os.openpty()
        try:
            with pytest.raises(RefusedError, match="an image is not text"):
                StreamTarget(follower).open(100, 1)
        finally:
            os.close(leader)
            os.close(follower)

    def test_a_dash(self) -> None:
        """A dash stands for the standard output."""
        assert isinstance(choose_target("-", force=False), StreamTarget)


async def test_nothing_is_made_for_a_bundle_that_lacks_a_part(manifest: Path, take_out: Any, tmp_path: Path) -> None:
    """A missing part is found before the target is opened."""
    (manifest.parent / "image.part.01").unlink()
    opened: list[str] = []
    place = tmp_path / "out"
    place.mkdir()
    with pytest.raises(DifferenceError, match=r"image\.part\.01: it is missing"):
        await take_out(manifest, place / "disk.img")
    assert (opened, list(place.iterdir())) == ([], [])
    flip(manifest.parent / "image.part.00")
