"""Files that are no disk: each is refused with the line that works, and no disk is mistaken for one."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import random
import shutil
import struct
import subprocess
import tarfile
import zipfile
from contextlib import closing
from pathlib import Path

import pytest

from amistream.source import foreign
from amistream.source.disks.reading import window
from amistream.source.doubt import doubt_about
from amistream.source.foreign import recognise
from amistream.source.opening import open_source
from source.images import content, refused, run_line
from support.volumes import ext4_image

DISK = random.Random(3).randbytes(70_000) + bytes(30_000)


def archive(name: str, form: int = tarfile.GNU_FORMAT) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=form) as file:
        member = tarfile.TarInfo(name)
        member.size = len(DISK)
        file.addfile(member, io.BytesIO(DISK))
    return made.getvalue()


def old_archive() -> bytes:
    """A tar archive of the seventh edition: no mark, only a checksum."""
    whole = archive("disk.img")
    head = whole[:148] + b" " * 8 + whole[156:257] + bytes(255)
    return head[:148] + b"%06o\0 " % sum(head) + head[156:] + whole[512:]


def zipped() -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as file:
        file.writestr("disk.img", DISK)
    return made.getvalue()


def program(*options: str) -> bytes:
    return subprocess.run(options, input=DISK, capture_output=True, check=True).stdout


PACKED = {
    "gzip": gzip.compress(DISK),
    "xz": lzma.compress(DISK),
    "lzma": lzma.compress(DISK, lzma.FORMAT_ALONE),
    "bzip2": bz2.compress(DISK),
    **{name: program(name, "-c") for name in ("zstd", "lz4") if shutil.which(name)},
}
BEGINNINGS = {
    "a zstd or lz4 file": b"\x50\x2a\x4d\x18\4\0\0\0",
    "a zstd file": b"\x28\xb5\x2f\xfd",
    "an lz4 file": b"\x04\x22\x4d\x18",
    "an lzip file": b"LZIP\1",
    "an lzop file": b"\x89LZO\0\r\n\x1a\n",
    "an lrzip file": b"LRZI\0\6",
    "a snappy file": b"\xff\x06\0\0sNaPpY",
    "a file of compress": b"\x1f\x9d\x90",
    "a 7z archive": b"7z\xbc\xaf\x27\x1c",
    "a rar archive": b"Rar!\x1a\x07\1",
    "a cpio archive": b"0707010001",
    "an ar archive or package": b"!<arch>\ndebian-binary",
    "a WIM archive": b"MSWIM\0\0\0",
    "a LUKS volume, which EC2 cannot open": b"LUKS\xba\xbe\0\2",
    "a Bochs image": b"Bochs Virtual HD Image\0",
    "a cloop image": b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop",
    "a part of a disk of VMware ESX": b"\xbe\xba\xfe\xca\0\0\0\0",
    "a description of a VMDK, without its data": b'.encoding = "UTF-8"\n# a disk\nversion=1\ncreateType="vmfs"\n',
    "an Android sparse image": b"\x3a\xff\x26\xed\1\0",
    "a partclone image": b"partclone-image\0",
    "an ntfsclone image": b"\0ntfsclone-image",
    "an FSArchiver image": b"FsArCh_002",
    "an EnCase image": b"EVF\x09\x0d\x0a\xff\0",
    "a stream of btrfs": b"btrfs-stream\0",
    "a stream of zfs": bytes(8) + struct.pack("<Q", 0x2F5BACBAC),
    "a dump of XFS": b"xFSdump0",
    "a backup of Proxmox": b"VMA\0\0\0\0\1",
    "a file encrypted by openssl": b"Salted__",
    "a file encrypted by age": b"age-encryption.org/v1\n-> X25519",
    "a file encrypted by GnuPG": b"\x8c\x0d\x04\x09\x03\x02",
    "a BitLocker volume, which EC2 cannot open": b"\xeb\x58\x90-FVE-FS-",
    "a cabinet archive": b"MSCF\0\0\0\0",
    "an rpm package": b"\xed\xab\xee\xdb\3\0",
    "a virtual machine's memory": b"QEVM\0\0\0\3",
    "a Linux kernel": bytes(514) + b"HdrS",
    "a Windows or EFI program": (b"MZ" + bytes(58) + struct.pack("<I", 128)).ljust(128, b"\0") + b"PE\0\0",
    "an ELF program": b"\x7fELF\2\1\1",
    "a script": b"#!/bin/sh\nexit",
    "a PEM file: a key or a certificate": b"-----BEGIN PRIVATE KEY-----",
    "a bundle's manifest": b"<?xml version='1.0'?>\n<manifest><version>2007-10-10</version>",
    "an XML or HTML file": b"<!DOCTYPE html><html>",
    "a pointer of Git LFS": b"version https://git-lfs.github.com/spec/v1",
    "a PDF file": b"%PDF-1.7",
}
WHOLE = {
    "a gzip file": PACKED["gzip"],
    "an xz file": PACKED["xz"],
    "an lzma file": PACKED["lzma"],
    "a bzip2 file": PACKED["bzip2"],
    "a zip archive": zipped(),
    "an OVA, a tar archive with a virtual machine": archive("machine.ovf"),
    "a tar archive": archive("disk.img"),
    "a DMG image": bytes(2000) + b"koly\0\0\0\4\0\0\2\0".ljust(512, b"\0"),
}
SAMPLES = WHOLE | {words: head + bytes(40_000) for words, head in BEGINNINGS.items()}


def test_every_kind_has_a_sample() -> None:
    """`SAMPLES` has each kind of file that is recognised."""
    assert {each.words for each in foreign._KINDS} == set(SAMPLES)


@pytest.mark.parametrize("words", SAMPLES)
def test_a_file_that_is_no_disk(words: str, tmp_path: Path) -> None:
    """Such a file is refused with its kind and a line, and read as it is if the user says so."""
    path = tmp_path / "disk image"
    path.write_bytes(SAMPLES[words])
    error = refused(path)
    assert (error.code, error.message) == ("source.no_disk", f"cannot bundle {path}: it is {words}, not a disk")
    assert error.hint.endswith("; if these bytes are the disk all the same: amistream bundle --source-format raw")
    assert "FILE" not in error.hint
    with closing(open_source(str(path), as_it_is=True)) as volume:
        assert volume.size == path.stat().st_size


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, None])
def test_forms_of_tar(form: int | None) -> None:
    """Tar archives of each form are recognised, and with a long name in another alphabet."""
    whole = archive("disk.img", form) if form is not None else old_archive()
    found = [recognise(whole)]
    if form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        found.append(recognise(archive("é" * 200, form)))
    assert {kind and kind.words for kind in found} == {"a tar archive"}


@pytest.mark.parametrize("name", PACKED)
def test_the_line_that_unpacks(name: str, tmp_path: Path) -> None:
    """The line of the hint gives the disk, in place of `amistream bundle -`, and its size."""
    path = tmp_path / "disk's image"
    path.write_bytes(PACKED[name])
    line = refused(path).hint.removeprefix("unpack it through a pipe: ")
    unpack, _, rest = line.partition(" | amistream bundle - ")
    count = rest.partition("`")[2].partition("`")[0]
    run_line(f"{unpack} > disk; {count} > size", tmp_path)
    assert (tmp_path / "disk").read_bytes() == DISK
    assert int((tmp_path / "size").read_text()) == len(DISK)


def test_the_line_for_tar(tmp_path: Path) -> None:
    """The line of the hint takes the member out of the archive."""
    path = tmp_path / "disk.tar"
    path.write_bytes(archive("disk.img"))
    line = refused(path).hint.partition("pipe: ")[2].partition(" | amistream")[0]
    run_line(f"{line.replace('NAME', 'disk.img')} > disk", tmp_path)
    assert (tmp_path / "disk").read_bytes() == DISK


def doubt(disk: bytes, name: str) -> str:
    """The doubt about a disk in a file of that name."""
    return doubt_about(window(lambda start, length: disk[start : start + length], 0, len(disk)), name, len(disk))


def boot_record(code: bytes) -> bytes:
    partition = struct.pack("<B3sB3sII", 0x80, b"\0\2\0", 0x83, b"\xff" * 3, 64, 96)
    return code.ljust(446, b"\0") + partition + bytes(48) + b"\x55\xaa"


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"\0",
        bytes(5000),
        b"\xff" * 5000,
        boot_record(b"\xeb\x63\x90\x10\x8e\xd0\xbc\x00\xb0"),
        boot_record(b"\xfa\x31\xc0\x8e\xd8"),
        boot_record(b"\x33\xc0\x8e\xd0\xbc\0\x7c"),
        boot_record(b"\x1f\x8b\x01"),
        boot_record(b"MZ"),
        boot_record(b"BZh1") + b"EFI PART" + bytes(504),
        boot_record(b"") + b"LABELONE",
        b"XFSB\0\0\x10\0" + bytes(504),
        bytes(1080) + b"\x53\xef" + bytes(1000),
        bytes(148) + b"0000400\0",
        bytes(4096 - 10) + b"SWAPSPACE2",
    ],
)
def test_a_disk_is_a_disk(head: bytes, tmp_path: Path) -> None:
    """Boot records with any code, bare file systems, volumes of LVM, and noise are disks."""
    path = tmp_path / "disk"
    path.write_bytes(disk := head + DISK)
    assert content(path) == disk
    assert not doubt(disk, path.name)


def test_a_file_system_is_a_disk(tmp_path: Path) -> None:
    """An image made by mkfs is a disk."""
    path = ext4_image(tmp_path / "image", 1 << 20)
    assert content(path) == path.read_bytes()


@pytest.mark.parametrize(
    ("head", "name", "says"),
    [
        (b"hsqs\1\0", "root.squashfs", "squashfs"),
        (bytes(4096) + b"EFI PART".ljust(4096, b"\0"), "disk.img", "sectors of 4096"),
        (bytes(32768) + b"\1CD001", "live.iso", "CD"),
        (bytes(510) + b"\x55\xaa" + bytes(32256) + b"\1CD001", "hybrid.iso", ""),
        (DISK, "image.part.07", "part"),
        (DISK, "image.part", ""),
        (b'{"message": "Not Found"}'.ljust(1024), "disk.img", "text"),
        (b"\xef\xbb\xbfSHA256 (disk.img) = 0f0f", "disk.img", "text"),
        (boot_record(b"")[:512], "disk-f001.vmdk", "cut short"),
    ],
)
def test_a_doubt(head: bytes, name: str, says: str, tmp_path: Path) -> None:
    """A disk that is hardly whole, or hardly boots, gets a doubt."""
    found = doubt(head, name)
    assert says in found
    assert bool(found) == bool(says)
