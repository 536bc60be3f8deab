"""Volumes: real files, links, pipes and loop devices; unfit sources are refused with the reason."""

from __future__ import annotations

import mmap
import os
import socket
import subprocess
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amistream.errors import RefusedError, SourceError
from amistream.ports.volume import Kind
from amistream.source.file import FileVolume, open_volume
from amistream.stages.read import Read
from source.nobody import as_nobody, open_folder
from support.mounts import mounted, partition
from support.volumes import ext4_image, loop_device, random_image, sparse_image, xfs_image

MIB = 1 << 20


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_image(tmp_path_factory.mktemp("volume") / "noise", 5000)


def read_all(volume: FileVolume, block_size: int = MIB) -> bytes:
    reader = Read(volume)
    data, last = bytearray(), False
    buffer = memoryview(bytearray(block_size))
    while not last:
        view, last = reader.read(buffer)
        data += view
    return bytes(data)


def refused(path: Path) -> RefusedError:
    with pytest.raises(RefusedError) as caught:
        open_volume(path).close()
    assert caught.value.field == "source"
    return caught.value


@pytest.mark.parametrize("size", [0, 1, 511, 4096, MIB + 1])
def test_sizes(size: int, tmp_path: Path) -> None:
    """An image file of any size, even an empty one, is read completely."""
    path = random_image(tmp_path / "image", size)
    with closing(open_volume(path)) as volume:
        assert (volume.path, volume.kind, volume.size) == (path, Kind.IMAGE_FILE, size)
        assert read_all(volume) == path.read_bytes()
        volume.check_unchanged()


def test_holes(tmp_path: Path) -> None:
    """Holes read as zeros, and all data is within the extents."""
    path = sparse_image(tmp_path / "image", 3 * MIB, [(MIB, 5000)])
    with closing(open_volume(path)) as volume:
        data = read_all(volume, 300_000)
        extents = volume.extents()
    rest = bytearray(data)
    for extent in extents:
        rest[extent.offset : extent.end] = bytes(extent.length)
    assert not any(rest)
    assert data == path.read_bytes()
    assert not any(data[:MIB])


def test_time(tmp_path: Path) -> None:
    """The volume's time is the file's, in whole seconds."""
    path = tmp_path / "image"
    path.touch()
    os.utime(path, (0, 1_234_567_890.9))
    with closing(open_volume(path)) as volume:
        assert volume.mtime == 1_234_567_890


def test_time_before_1970(tmp_path: Path) -> None:
    """A time before 1970, which an archive cannot store, becomes 1970."""
    path = tmp_path / "image"
    path.touch()
    os.utime(path, (0, -1000))
    with closing(open_volume(path)) as volume:
        assert volume.mtime == 0


@settings(deadline=None)
@given(st.data())
def test_every_cut(noise: Path, data: st.DataObject) -> None:
    """Any range of bytes is read into the buffer, complete and nothing beside it."""
    content = noise.read_bytes()
    start = data.draw(st.integers(0, len(content)))
    length = data.draw(st.integers(0, len(content) - start))
    buffer = bytearray(b"\xee" * (length + 2))
    with closing(open_volume(noise)) as volume:
        volume.read_into(start, memoryview(buffer)[1:-1])
    assert buffer == b"\xee" + content[start : start + length] + b"\xee"


def test_several_threads(tmp_path: Path) -> None:
    """Threads read different places at once without disturbing each other."""
    path = random_image(tmp_path / "image", 64_000)
    content = path.read_bytes()
    together = threading.Barrier(4)
    wrong: list[int] = []

    def read(start: int) -> None:
        buffer = bytearray(100)
        together.wait(10)
        for offset in range(start, len(content), 400):
            volume.read_into(offset, memoryview(buffer))
            if buffer != content[offset : offset + 100]:
                wrong.append(offset)

    with closing(open_volume(path)) as volume:
        threads = [threading.Thread(target=read, args=(number * 100,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


def test_shrunk(noise: Path, tmp_path: Path) -> None:
    """A file that shrank is an error with its new end, and counts as changed."""
    path = tmp_path / "image"
    path.write_bytes(noise.read_bytes())
    with closing(open_volume(path)) as volume:
        os.truncate(path, 3000)
        with pytest.raises(SourceError) as caught:
            read_all(volume, 2000)
        assert caught.value.code == "source.shrunk"
        assert caught.value.message == f"cannot read {path} to its end: it ends at byte 3000 and had 5000 bytes"
        with pytest.raises(SourceError, match="written to in the meantime"):
            volume.check_unchanged()


def set_back_time(path: Path, before: os.stat_result) -> None:
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_changed_size(noise: Path, tmp_path: Path) -> None:
    """A file that grew counts as changed, even when its time was restored."""
    path = tmp_path / "image"
    path.write_bytes(noise.read_bytes())
    before = path.stat()
    with closing(open_volume(path)) as volume:
        with path.open("ab") as file:
            file.write(b"more")
        set_back_time(path, before)
        with pytest.raises(SourceError) as caught:
            volume.check_unchanged()
    assert caught.value.code == "source.changed"
    assert caught.value.message == f"cannot use the data read from {path}: it was written to in the meantime"


def test_changed_time(noise: Path, tmp_path: Path) -> None:
    """A file whose time moved by a nanosecond counts as changed."""
    path = tmp_path / "image"
    path.write_bytes(noise.read_bytes())
    with closing(open_volume(path)) as volume:
        volume.check_unchanged()
        os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
        with pytest.raises(SourceError, match="written to in the meantime"):
            volume.check_unchanged()


def test_replaced(noise: Path, tmp_path: Path) -> None:
    """A file that replaces the path is ignored: the opened file is read."""
    path = tmp_path / "image"
    path.write_bytes(noise.read_bytes())
    with closing(open_volume(path)) as volume:
        path.rename(tmp_path / "moved")
        path.write_bytes(b"another")
        assert read_all(volume) == noise.read_bytes()
        volume.check_unchanged()


def test_link(noise: Path, tmp_path: Path) -> None:
    """A symbolic link is followed."""
    link = tmp_path / "link"
    link.symlink_to(noise)
    with closing(open_volume(link)) as volume:
        assert (volume.path, volume.size) == (link, 5000)
        assert read_all(volume) == noise.read_bytes()


def test_missing(tmp_path: Path) -> None:
    """A missing path and a dangling link are refused as missing."""
    (tmp_path / "dangling").symlink_to("nowhere")
    for path in (tmp_path / "nothing", tmp_path / "dangling"):
        error = refused(path)
        assert (error.code, error.message) == (
            "source.missing",
            f"cannot bundle {path}: there is no such file or device",
        )
        assert "lsblk" in error.hint
    assert "describe-images" in refused(tmp_path / "ami-7f0db46c2ead568fd").hint


def test_directory(tmp_path: Path) -> None:
    """A directory is refused as such."""
    error = refused(tmp_path)
    assert (error.code, error.message) == ("source.kind", f"cannot bundle {tmp_path}: it is a directory")


def test_fifo(tmp_path: Path) -> None:
    """A named pipe without a writer is refused at once."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    error = refused(path)
    assert error.code == "source.kind"
    assert error.message == f"cannot bundle {path}: it is a pipe"
    assert "| amistream bundle - --image-size" in error.hint


def test_character_device() -> None:
    """An endless device is refused."""
    assert refused(Path("/dev/zero")).message == "cannot bundle /dev/zero: it is neither a file nor a block device"


def test_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A socket is refused."""
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("s")
        assert refused(tmp_path / "s").code == "source.kind"


def test_below_a_file(noise: Path) -> None:
    """A path that passes through a file is refused with the system's reason."""
    path = noise / "image"
    assert refused(path).message == f"cannot read {path}: Not a directory"


def test_refusal_leaves_no_descriptor(tmp_path: Path) -> None:
    """Refused sources and closed volumes leave no open descriptor."""
    before = {path.name for path in Path("/proc/self/fd").iterdir()}
    refused(tmp_path)
    open_volume(random_image(tmp_path / "image", 10)).close()
    assert {path.name for path in Path("/proc/self/fd").iterdir()} == before


def test_unreadable() -> None:
    """A file without read permission is refused; the hint says which user reads it."""
    with open_folder() as folder:
        path = folder / "image"
        path.write_bytes(b"secret")
        path.chmod(0o644)
        with as_nobody():
            open_volume(path).close()
        path.chmod(0o000)
        with as_nobody():
            error = refused(path)
    assert error.code == "source.unreadable"
    assert error.message == f"cannot read {path}: Permission denied"
    assert error.hint.startswith(f"check its permissions: ls -l {path}; the user that runs the job reads the file")
    assert "sudo" in error.hint


def test_disk_error() -> None:
    """The error of a failed read has the kernel's reason and the offset."""
    # The kernel answers EIO to a read of this process's memory where none is mapped.
    with closing(open_volume(Path("/proc/self/mem"))) as volume, pytest.raises(SourceError) as caught:
        volume.read_into(4096, memoryview(bytearray(512)))
    assert caught.value.code == "source.read_error"
    assert caught.value.message == "cannot read /proc/self/mem at byte 4096: Input/output error"


def test_block_device(tmp_path: Path) -> None:
    """A block device has its real size and content."""
    image = random_image(tmp_path / "image", 3 * MIB + 512)
    with loop_device(image) as device, closing(open_volume(device)) as volume:
        assert (volume.kind, volume.size) == (Kind.BLOCK_DEVICE, 3 * MIB + 512)
        assert read_all(volume) == image.read_bytes()
        volume.check_unchanged()


def test_block_device_resized(tmp_path: Path) -> None:
    """A block device whose size changed counts as changed."""
    image = random_image(tmp_path / "image", MIB)
    with loop_device(image) as device, closing(open_volume(device)) as volume:
        os.truncate(image, 2 * MIB)
        subprocess.run(["losetup", "--set-capacity", str(device)], check=True)
        with pytest.raises(SourceError, match="written to in the meantime"):
            volume.check_unchanged()


def test_block_device_written(tmp_path: Path) -> None:
    """A write to a device counts as a change, unless the volume is live."""
    image = random_image(tmp_path / "image", MIB)
    with (
        loop_device(image, read_only=False) as device,
        closing(open_volume(device)) as volume,
        closing(open_volume(device, live=True)) as live,
    ):
        volume.check_unchanged()
        with device.open("r+b") as file:
            file.write(b"x")
        with pytest.raises(SourceError, match="written to in the meantime"):
            volume.check_unchanged()
        live.check_unchanged()


def test_disk_read_before_its_partition_was_written_to(tmp_path: Path) -> None:
    """The bytes on a disk count, not those that the kernel kept from before a file system on it wrote."""
    disk = tmp_path / "disk.img"
    disk.write_bytes(bytes(MIB) + ext4_image(tmp_path / "ext4.img", 16 * MIB).read_bytes())
    with (
        loop_device(disk, read_only=False) as device,
        partition(device, MIB, 16 * MIB) as part,
        mounted(part, tmp_path / "mounted") as where,
    ):
        device.read_bytes()
        (where / "new").write_bytes(b"written at last" * 1000)
        subprocess.run(["mount", "-o", "remount,ro", where], check=True)
        with closing(open_volume(device)) as volume:
            assert read_all(volume) == disk.read_bytes()


def test_file_written_with_its_time_put_back(tmp_path: Path) -> None:
    """A writer who restores the file's time is found."""
    image = random_image(tmp_path / "image", MIB)
    with closing(open_volume(image)) as volume:
        before = image.stat()
        with image.open("r+b") as file:
            file.write(b"x")
        os.utime(image, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert image.stat().st_mtime_ns == before.st_mtime_ns
        with pytest.raises(SourceError, match="written to in the meantime"):
            volume.check_unchanged()


@pytest.mark.parametrize("make", [ext4_image, xfs_image])
def test_written_to_through_a_mapping(make: Callable[[Path, int], Path], tmp_path: Path) -> None:
    """A further write to a page that is already dirty through a mapping is found."""
    disk = make(tmp_path / "disk.img", 320 * MIB)
    with (
        loop_device(disk, read_only=False) as device,
        mounted(device, tmp_path / "mounted") as folder,
        (folder / "image").open("w+b") as file,
    ):
        file.truncate(MIB)
        with mmap.mmap(file.fileno(), MIB) as pages:
            pages[:5] = b"first"
            with closing(open_volume(folder / "image")) as volume:
                volume.check_unchanged()
                pages[:5] = b"later"
                with pytest.raises(SourceError, match="written to in the meantime"):
                    volume.check_unchanged()
