"""Every format that qemu-img writes: the disk in it is what qemu-img reads, or the image is refused."""

from __future__ import annotations

import contextlib
import re
import struct
import subprocess
from pathlib import Path

import pytest

from amistream.errors import AmistreamError
from source.images import content, convert, needs_qemu, refused, run_line
from support.volumes import sparse_image

pytestmark = needs_qemu

MIB = 1 << 20
SIZE = 3 * MIB - 512
"""No multiple of a cluster, a grain or a cylinder."""

VARIANTS = {
    "parallels": ["", "cluster_size=65536"],
    "qcow": [""],
    "qcow2": [
        "",
        "compat=0.10",
        "cluster_size=512",
        "cluster_size=2M",
        "compress",
        "compress,compression_type=zstd",
        "compress,cluster_size=512",
        "extended_l2=on",
        "compress,extended_l2=on,cluster_size=128k",
        "lazy_refcounts=on",
        "refcount_bits=1",
        "refcount_bits=64",
        "preallocation=metadata",
        "preallocation=falloc",
        "preallocation=full",
    ],
    "qed": ["", "cluster_size=1M,table_size=2"],
    "vdi": ["", "static=on"],
    "vhdx": ["", "subformat=fixed", "block_size=1M", "log_size=2M,block_state_zero=off"],
    "vmdk": ["", "subformat=streamOptimized", "compat6=on", "zeroed_grain=on", "adapter_type=lsilogic,hwversion=6"],
    "vpc": ["", "force_size=on", "subformat=fixed", "subformat=fixed,force_size=on"],
}
WRITABLE = [(name, variant) for name, variants in VARIANTS.items() for variant in variants]
NO_MARK = {"raw", "file"}
"""Written without a header: the bytes are the disk."""


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A disk with holes, and with data at both ends."""
    data = [(0, 100_000), (MIB + 5000, 70_000), (SIZE - 700, 700)]
    return sparse_image(tmp_path_factory.mktemp("disk") / "disk.img", SIZE, data)


def made(disk: Path, path: Path, name: str, variant: str) -> Path:
    options = variant.removeprefix("compress").removeprefix(",")
    packed = ["-c"] if variant.startswith("compress") else []
    return convert(disk, path, name, *packed, *(["-o", options] if options else []))


def as_qemu_reads_it(path: Path, driver: str) -> bytes:
    raw = path.with_name("raw")
    argv = ["qemu-img", "convert", "-O", "raw", "--image-opts", f"{driver},file.filename={path}", str(raw)]
    subprocess.run(argv, check=True)
    return raw.read_bytes()


def test_no_format_is_missing(tmp_path: Path) -> None:
    """`VARIANTS` has every format that this machine's qemu-img makes a file of."""
    listed = subprocess.run(["qemu-img", "--help"], capture_output=True, text=True, check=True).stdout
    names = re.search("Supported formats: (.*)", listed)
    assert names
    writable = set()
    for name in names[1].split():
        path = tmp_path / name
        subprocess.run(
            ["qemu-img", "create", "-q", "-f", name, str(path), "1M"], stderr=subprocess.DEVNULL, check=False
        )
        if path.is_file() and path.stat().st_size:
            writable.add(name)
    assert writable - NO_MARK == set(VARIANTS)


@pytest.mark.parametrize(("name", "variant"), WRITABLE)
def test_the_disk_of_a_variant(name: str, variant: str, disk: Path, tmp_path: Path) -> None:
    """Each variant reads as qemu-img converts it; cut anywhere, an image is refused or still gives the same disk."""
    path = made(disk, tmp_path / "image", name, variant)
    expected = as_qemu_reads_it(path, f"driver={name}")
    assert expected.startswith(disk.read_bytes())
    assert content(path) == expected
    if name == "vpc" and "fixed" in variant:
        return  # without its footer it is a raw disk
    whole = path.read_bytes()
    for cut in (len(whole) - 1, len(whole) - 512, len(whole) * 9 // 10, len(whole) // 3):
        path.write_bytes(whole[:cut])
        with contextlib.suppress(AmistreamError):
            assert content(path) == expected


@pytest.mark.parametrize(
    "options",
    [
        ["-f", "vmdk", "-o", "subformat=monolithicFlat"],
        ["-f", "vmdk", "-o", "subformat=twoGbMaxExtentSparse"],
        ["-f", "vmdk", "-o", "subformat=twoGbMaxExtentFlat"],
        ["-f", "qcow2", "-o", "data_file=data.raw"],
        ["-f", "qcow2", "-b", "base.raw", "-F", "raw"],
        ["-f", "qcow", "-b", "base.raw", "-F", "raw"],
        ["-f", "qed", "-b", "base.raw", "-F", "raw"],
    ],
)
def test_variants_without_the_whole_disk(options: list[str], tmp_path: Path) -> None:
    """A disk with parts in other files is refused by its header, with the line that works."""
    (tmp_path / "base.raw").write_bytes(bytes(MIB))
    subprocess.run(["qemu-img", "create", "-q", *options, "image", "1M"], check=True, cwd=tmp_path)
    error = refused(tmp_path / "image")
    assert error.code == "source.elsewhere"
    run_line(error.hint.partition(": ")[2], tmp_path)
    assert content(tmp_path / "WHOLE.qcow2") == bytes(MIB)


def patched(path: Path, *changes: tuple[int, bytes]) -> Path:
    with path.open("r+b") as file:
        for offset, data in changes:
            file.seek(offset)
            file.write(data)
    return path


@pytest.mark.parametrize(("offset", "data"), [(76, struct.pack("<I", 4)), (424, b"\1" * 16), (440, b"\1" * 16)])
def test_a_vdi_with_a_parent(offset: int, data: bytes, disk: Path, tmp_path: Path) -> None:
    """A differencing VDI is refused by its type, and by the identity of its parent."""
    error = refused(patched(convert(disk, tmp_path / "image", "vdi"), (offset, data)))
    assert (error.code, "VBoxManage clonemedium" in error.hint) == ("source.elsewhere", True)


def test_a_qcow2_marked_as_corrupt(disk: Path, tmp_path: Path) -> None:
    """A corrupt qcow2, which qemu reads without a word, is refused; the line of the hint repairs it."""
    path = patched(convert(disk, tmp_path / "image", "qcow2"), (72, struct.pack(">Q", 2)))
    error = refused(path)
    assert error.code == "source.damaged"
    run_line(error.hint.partition("then: ")[2], tmp_path)
    assert content(path) == disk.read_bytes()


def test_a_sparse_disk_of_esx(disk: Path, tmp_path: Path) -> None:
    """A COWD extent, which qemu reads through its description only, is refused; the line of the hint gives the disk."""
    data, grain = disk.read_bytes(), 64 * 1024
    count = -(-SIZE // grain)
    head = struct.pack("<4sIIIIIII", b"COWD", 1, 3, SIZE // 512, grain // 512, 4, 1, 0).ljust(2048, b"\0")
    first = struct.pack("<I", 8).ljust(2048, b"\0")
    second = struct.pack(f"<{count}I", *(40 + n * grain // 512 for n in range(count))).ljust(4096 * 4, b"\0")
    (tmp_path / "DISK-s001.vmdk").write_bytes(head + first + second + data.ljust(count * grain, b"\0"))
    (tmp_path / "DISK.vmdk").write_text(
        '# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType="vmfsSparse"\n'
        f'RW {SIZE // 512} VMFSSPARSE "DISK-s001.vmdk"\n'
    )
    error = refused(tmp_path / "DISK-s001.vmdk")
    assert error.code == "source.no_disk"
    run_line(error.hint.partition(".vmdk file: ")[2].partition(";")[0], tmp_path)
    assert content(tmp_path / "WHOLE.qcow2") == data


def test_an_extent_of_a_split_disk(disk: Path, tmp_path: Path) -> None:
    """A sparse extent without the description of its disk is refused; the line of the hint gives the disk."""
    convert(disk, tmp_path / "DISK.vmdk", "vmdk", "-o", "subformat=twoGbMaxExtentSparse")
    error = refused(tmp_path / "DISK-s001.vmdk")
    assert error.code == "source.elsewhere"
    run_line(error.hint.partition(".vmdk file: ")[2], tmp_path)
    assert content(tmp_path / "WHOLE.qcow2") == disk.read_bytes()


def test_a_vhdx_with_a_parent(disk: Path, tmp_path: Path) -> None:
    """A differencing VHDX is refused with its reason."""
    path = convert(disk, tmp_path / "image", "vhdx")
    identity = bytes.fromhex("3767a1ca36fa434db3b633f0aa44e76b")
    place = path.read_bytes().index(identity)
    (offset,) = struct.unpack("<I", path.read_bytes()[place + 16 : place + 20])
    # The table of the region is at the region's beginning, and has the item's offset in the region.
    patched(path, (place // (64 * 1024) * (64 * 1024) + offset + 4, struct.pack("<I", 2)))
    error = refused(path)
    assert (error.code, "Convert-VHD" in error.hint) == ("source.elsewhere", True)
