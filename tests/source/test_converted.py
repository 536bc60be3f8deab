"""Disk images in other formats, made by qemu-img: each reads as the disk that it contains."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from amistream.errors import RefusedError, SourceError
from amistream.host import program
from amistream.source.file import FileVolume
from amistream.source.opening import open_source
from amistream.stages.read import Read
from source.images import FACTS, MAP, MIB, SIZE, convert, needs_qemu, opened, refused, run_line, script, servers
from support.volumes import loop_device, sparse_image

FORMS = {
    "qcow2": ("qcow2",),
    "qcow2-old": ("qcow2", "-o", "compat=0.10"),
    "qcow2-small-clusters": ("qcow2", "-o", "cluster_size=512"),
    "qcow2-compressed": ("qcow2", "-c"),
    "vmdk": ("vmdk",),
    "vmdk-stream": ("vmdk", "-o", "subformat=streamOptimized"),
    "vhd": ("vpc", "-o", "force_size=on"),
    "vhd-fixed": ("vpc", "-o", "subformat=fixed,force_size=on"),
    "vhdx": ("vhdx",),
}
SERVED = {"qcow2-compressed", "vmdk-stream", "vhdx"}
"""Those of which at least a piece can be read by qemu-nbd only."""


@pytest.fixture(params=FORMS)
def image(request: pytest.FixtureRequest, disk: Path, tmp_path: Path) -> Path:
    # Under a name that tells nothing.
    return convert(disk, tmp_path / "image", *FORMS[request.param])


@needs_qemu
def test_the_disk_within(image: Path, disk: Path, request: pytest.FixtureRequest) -> None:
    """Each format reads as the original disk at any offset, with its size and time."""
    content = disk.read_bytes()
    with closing(opened(image)) as volume:
        assert (volume.path, volume.size, volume.mtime) == (image, SIZE, int(image.stat().st_mtime))
        for offset, length in ((0, SIZE), (7 * MIB, 3 * MIB), (7 * MIB + 12344, 3), (SIZE - 5, 5), (5 * MIB, 100)):
            buffer = bytearray(b"\xff" * length)
            volume.read_into(offset, memoryview(buffer))
            assert buffer == content[offset : offset + length]
        volume.will_need(0, SIZE)
        volume.check_unchanged()


@needs_qemu
def test_holes_are_left_out(image: Path, disk: Path, request: pytest.FixtureRequest) -> None:
    """Holes of the map are not read, and extents and holes together are the disk."""
    with closing(opened(image)) as volume:
        extents = volume.extents()
        reader, made, last = Read(volume, extents), bytearray(SIZE), False
        pieces = []
        while not last:
            block, last = reader.read(memoryview(bytearray(300_000)))
            pieces.append(bytes(block))
    data = b"".join(pieces)
    for extent in extents:
        made[extent.offset : extent.end], data = data[: extent.length], data[extent.length :]
    assert not data
    assert made == disk.read_bytes()
    if "vhdx" not in request.node.name:
        assert sum(extent.length for extent in extents) < SIZE * 2 // 3


@needs_qemu
@pytest.mark.parametrize("form", FORMS)
def test_what_is_served(form: str, disk: Path, tmp_path: Path) -> None:
    """A server starts once, only for compressed or unmapped pieces, and ends with the volume."""
    with closing(opened(convert(disk, tmp_path / "image", *FORMS[form]))) as volume:
        assert not servers()
        for _ in range(2):
            volume.read_into(0, memoryview(bytearray(SIZE)))
        assert len(servers()) == (form in SERVED)
    assert not servers()


@needs_qemu
def test_a_device_with_an_image(disk: Path, tmp_path: Path) -> None:
    """A block device that holds an image is refused with the line that makes a disk of it, or taken as it is."""
    image = convert(disk, tmp_path / "image", "qcow2")
    with loop_device(image) as device:
        error = refused(device)
        assert error.code == "source.no_disk"
        line = error.hint.removeprefix("convert it: ").partition(", then")[0]
        run_line(line, tmp_path)
        assert (tmp_path / "disk.img").read_bytes() == disk.read_bytes()
        with closing(open_source(str(device), as_it_is=True)) as volume:
            assert isinstance(volume, FileVolume)
            assert volume.size == image.stat().st_size


@needs_qemu
def test_images_that_lead_elsewhere(disk: Path, tmp_path: Path) -> None:
    """Backing files, data files and extents of a VMDK are refused, with a hint to merge them."""
    made = {
        "backing": ["-f", "qcow2", "-b", str(disk), "-F", "raw"],
        "data": ["-f", "qcow2", "-o", f"data_file={tmp_path}/elsewhere.raw"],
        "flat": ["-f", "vmdk", "-o", "subformat=monolithicFlat"],
        "split": ["-f", "vmdk", "-o", "subformat=twoGbMaxExtentSparse"],
    }
    for name, options in made.items():
        path = tmp_path / name
        size = [] if name == "backing" else ["10M"]
        subprocess.run(["qemu-img", "create", "-q", *options, str(path), *size], check=True)
        error = refused(path)
        assert error.code == "source.elsewhere", name
        assert f"qemu-img convert -O qcow2 {path}" in error.hint


@needs_qemu
def test_an_encrypted_image(tmp_path: Path) -> None:
    """An encrypted image is refused."""
    path = tmp_path / "image"
    options = "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10"
    secret = ["--object", "secret,id=s,data=pass"]
    argv = ["qemu-img", "create", "-q", "-f", "qcow2", *secret, "-o", options, str(path), "4M"]
    # It measures how fast the machine derives keys, and gives up where the clock stands still meanwhile.
    assert any(subprocess.run(argv, check=False).returncode == 0 for _ in range(20))
    assert refused(path).code == "source.encrypted"


@needs_qemu
@pytest.mark.parametrize("form", ["qcow2", "vmdk"])
def test_an_image_cut_short(form: str, disk: Path, tmp_path: Path) -> None:
    """A truncated image is refused, although qemu-img reads its rest as zeros."""
    path = convert(disk, tmp_path / "image", form)
    os.truncate(path, 2 * MIB)
    assert refused(path).code == "source.cut_short"


@needs_qemu
@pytest.mark.parametrize("packed", [False, True])
def test_an_image_without_its_tables(packed: bool, disk: Path, tmp_path: Path) -> None:
    """An image whose tables are missing is never taken for an empty disk."""
    path = convert(disk, tmp_path / "image", "qcow2", *(["-c"] if packed else []))
    for size in (327_679, 300_000, 262_144, 200_000, 140_000, 100_000, 70_000, 1_000):
        os.truncate(path, size)
        assert refused(path).code == "source.cut_short"


@needs_qemu
def test_a_last_cluster_that_is_not_whole(tmp_path: Path) -> None:
    """An image that lacks a part of its last cluster is refused: QEMU writes whole ones, and reads zeros there."""
    disk = sparse_image(tmp_path / "disk.img", MIB, [(512 * 1024, 5000)])
    path = convert(disk, tmp_path / "image", "qcow2")
    os.truncate(path, path.stat().st_size - 50_000)
    error = refused(path)
    assert (error.code, "50000 bytes" in error.message) == ("source.cut_short", True)


@needs_qemu
def test_a_damaged_image(tmp_path: Path) -> None:
    """qemu-img's message about a damaged image is shown, with the image's path and not a descriptor's."""
    path = tmp_path / "an image"
    path.write_bytes(b"QFI\xfb\0\0\0\3" + bytes(100))
    error = refused(path)
    assert error.code == "source.converter"
    assert f"qemu-img check '{path}'" in error.hint
    assert str(path) in error.message
    assert "/proc/self" not in str(error)
    assert "file.filename" not in str(error)


@needs_qemu
def test_a_server_that_dies(disk: Path, tmp_path: Path) -> None:
    """A read after qemu-nbd died is an error with a reason; the volume still closes."""
    volume = opened(convert(disk, tmp_path / "image", "qcow2", "-c"))
    volume.read_into(12 * MIB, memoryview(bytearray(MIB)))
    (server,) = servers()
    os.kill(server, signal.SIGKILL)
    os.waitid(os.P_PID, server, os.WEXITED | os.WNOWAIT)
    with pytest.raises(SourceError, match="at byte"):
        volume.read_into(12 * MIB, memoryview(bytearray(MIB)))
    volume.close()


@needs_qemu
def test_interrupted(disk: Path, tmp_path: Path) -> None:
    """An interrupted volume cannot be read through its server, running or not, until it is rewound."""
    path = convert(disk, tmp_path / "image", "vhdx")
    for started in (False, True):
        with closing(opened(path)) as volume:
            if started:
                volume.read_into(0, memoryview(bytearray(10)))
            volume.interrupt()
            with pytest.raises(SourceError):
                volume.read_into(0, memoryview(bytearray(10)))
            volume.rewind()
            again = bytearray(10)
            volume.read_into(0, memoryview(again))
            assert again == disk.read_bytes()[:10]


@needs_qemu
def test_an_image_that_changes(disk: Path, tmp_path: Path) -> None:
    """A write to the image during the reading is found."""
    path = convert(disk, tmp_path / "image", "qcow2")
    with closing(opened(path)) as volume:
        os.utime(path, (0, 0))
        with pytest.raises(SourceError) as caught:
            volume.check_unchanged()
    assert caught.value.code == "source.changed"


def open_files() -> list[Path]:
    return sorted(Path("/proc/self/fd").iterdir())


@needs_qemu
def test_nothing_stays_open(disk: Path, tmp_path: Path) -> None:
    """A closed volume and a refused one leave no descriptor and no process."""
    good, bad = convert(disk, tmp_path / "good", "qcow2", "-c"), tmp_path / "bad"
    bad.write_bytes(b"QFI\xfb")
    before = open_files()
    with closing(opened(good)) as volume:
        volume.read_into(0, memoryview(bytearray(SIZE)))
    refused(bad)
    assert open_files() == before


@needs_qemu
def test_a_wrong_image_size(disk: Path, tmp_path: Path) -> None:
    """A given size must be that of the disk in the image."""
    path = convert(disk, tmp_path / "image", "qcow2")
    open_source(str(path), image_size=SIZE).close()
    with pytest.raises(RefusedError, match="was said to have 5") as caught:
        open_source(str(path), image_size=5)
    assert caught.value.field == "image_size"


def test_without_qemu(programs: Path, tmp_path: Path) -> None:
    """Without qemu-img the error names the package."""
    (tmp_path / "image").write_bytes(b"QFI\xfb" + bytes(1000))
    error = refused(tmp_path / "image")
    assert error.code == "source.converter_missing"
    assert "qemu-img" in error.message
    assert "apt-get install qemu-utils" in error.hint


def test_without_the_driver(programs: Path, tmp_path: Path) -> None:
    """A qemu-img without the format's driver is said to miss it."""
    script(programs, "qemu-img", "echo \"qemu-img: Could not open 'x': Unknown driver 'qcow2'\" >&2; exit 1")
    (tmp_path / "image").write_bytes(b"QFI\xfb" + bytes(1000))
    error = refused(tmp_path / "image")
    assert (error.code, "the driver of qemu-img" in error.message) == ("source.converter_missing", True)
    assert "qemu-img convert" in error.hint


def test_without_qemu_nbd(programs: Path, tmp_path: Path) -> None:
    """Without qemu-nbd the error comes when the server is needed."""
    script(programs, "qemu-img", f"case $1 in info) echo '{FACTS}';; *) echo '{MAP}';; esac")
    (tmp_path / "image").write_bytes(b"QFI\xfb" + bytes(1000))
    with closing(opened(tmp_path / "image")) as volume, pytest.raises(RefusedError, match="qemu-nbd"):
        volume.read_into(0, memoryview(bytearray(10)))


def test_no_secret_is_handed_on(programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The programs get neither our environment nor the image's path."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI")
    script(programs, "qemu-img", f'/usr/bin/env > {tmp_path}/seen; echo "$@" >> {tmp_path}/seen; exit 1')
    (tmp_path / "image").write_bytes(b"QFI\xfb" + bytes(1000))
    refused(tmp_path / "image")
    seen = (tmp_path / "seen").read_text()
    assert "AWS_" not in seen
    assert str(tmp_path / "image") not in seen
    assert re.search(r"/proc/self/fd/\d+$", seen)


def test_a_program_that_hangs(programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that does not answer is ended, and the image refused."""
    monkeypatch.setattr(program, "PATIENCE_S", 0.2)
    script(programs, "qemu-img", "exec /bin/sleep 600")
    (tmp_path / "image").write_bytes(b"QFI\xfb" + bytes(1000))
    assert "did not answer" in refused(tmp_path / "image").message


def test_a_server_that_speaks_otherwise(programs: Path, tmp_path: Path) -> None:
    """A qemu-nbd that does not start, or does not speak NBD, is an error with a reason."""
    script(programs, "qemu-img", f"case $1 in info) echo '{FACTS}';; *) echo '{MAP}';; esac")
    (tmp_path / "image").write_bytes(b"QFI\xfb" + bytes(1000))
    script(programs, "qemu-nbd", "echo 'qemu-nbd: Failed to open: on strike' >&2; exit 1")
    with closing(opened(tmp_path / "image")) as volume, pytest.raises(SourceError, match="on strike"):
        volume.read_into(0, memoryview(bytearray(10)))
