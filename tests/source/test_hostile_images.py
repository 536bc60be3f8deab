"""Images made to do harm: none opens another file, reveals one, or exhausts the memory."""

from __future__ import annotations

import json
import os
import select
import struct
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from amistream.errors import RefusedError, SourceError
from amistream.roots import Roots
from amistream.source.opening import open_source
from amistream.source.qemu import converted
from amistream.source.qemu.formats import Format
from amistream.source.qemu.nbd import NbdServer
from source.images import FACTS, MAP, MIB, SIZE, convert, needs_qemu, opened, refused, script, servers
from support.volumes import random_image


def vmdk(path: Path, descriptor: str, *, capacity: int = 0) -> Path:
    """A VMDK with one sparse extent, a capacity in sectors, and a description."""
    text = ("# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\n" + descriptor).encode()
    head = struct.pack("<4sIIQQQQIQQQ", b"KDMV", 1, 3, capacity, 128, 1, 20, 512, 21, 26, 128)
    path.write_bytes(head.ljust(512, b"\0") + text.ljust(20 * 512, b"\0") + bytes(MIB))
    return path


FLAT = 'createType="monolithicFlat"\nRW 8 FLAT "{}" 0\n'


@pytest.mark.parametrize(
    ("descriptor", "capacity"),
    [
        (FLAT, 0),
        ("", 0),
        (FLAT, 49152),
        ('RW 8 SPARSE "image"\nRW 8 SPARSE "{}"\n', 49152),
        ('parentCID=1a2b3c4d\nparentFileNameHint="{}"\nRW 8 SPARSE "image"\n', 49152),
        ('parentCID=1a2b3c4d\nRW 8 SPARSE "image"\n', 49152),
        (' \tRDONLY\t8\tZERO\nRW 8 SPARSE "image"\n', 49152),
    ],
)
def test_a_vmdk_that_names_others_reaches_no_program(
    programs: Path, tmp_path: Path, descriptor: str, capacity: int
) -> None:
    """A VMDK whose description names other files, existing or not, is refused by its header."""
    script(programs, "qemu-img", f"echo ran > {tmp_path}/ran")
    for other in ("/etc/passwd", "/nowhere"):
        error = refused(vmdk(tmp_path / "image", descriptor.format(other), capacity=capacity))
        assert error.code == "source.elsewhere"
        assert other not in str(error)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("named", "line"), [("", "vmware-vdiskmanager"), ('parentFileNameHint="x"\n', "qemu-img convert")]
)
def test_a_vmdk_with_a_parent(named: str, line: str, tmp_path: Path) -> None:
    """The line for a VMDK with a parent is one that finds the parent; without its name, QEMU would read zeros."""
    path = vmdk(tmp_path / "image", f'parentCID=1a2b3c4d\n{named}RW 8 SPARSE "image"\n', capacity=49152)
    assert line in refused(path).hint
    path.write_text(f'# Disk DescriptorFile\nversion=1\nparentCID=1a2b3c4d\n{named}RW 8 SPARSE "other"\n')
    assert line in refused(path).hint


@needs_qemu
def test_a_vmdk_that_was_renamed(disk: Path, tmp_path: Path) -> None:
    """A renamed VMDK, whose description has the old name, is read."""
    path = convert(disk, tmp_path / "before", "vmdk").rename(tmp_path / "after")
    with closing(opened(path)) as volume:
        assert volume.size == SIZE


def qcow2_header(*, backing: bytes = b"", features: int = 0, version: int = 3) -> bytes:
    head = struct.pack(">4sIQIIQ", b"QFI\xfb", version, 512 * bool(backing), len(backing), 16, SIZE)
    return (head.ljust(72, b"\0") + struct.pack(">Q", features)).ljust(512, b"\0") + backing


@pytest.mark.parametrize(
    ("header", "says"),
    [
        (qcow2_header(backing=b"/etc/passwd"), "a part of its disk is in another file, /etc/passwd"),
        (qcow2_header(backing=b"/etc/passwd", version=2), "a part of its disk is in another file, /etc/passwd"),
        (qcow2_header(features=1 << 2), "its data is in another file"),
        (b"QFI\xfb\0\0\0\3" + b"\xff" * 100, "a part of its disk is in another file"),
    ],
)
def test_a_qcow2_that_names_others_reaches_no_program(programs: Path, tmp_path: Path, header: bytes, says: str) -> None:
    """A backing file and a data file are refused by the header."""
    script(programs, "qemu-img", f"echo ran > {tmp_path}/ran")
    (tmp_path / "image").write_bytes(header)
    error = refused(tmp_path / "image")
    assert error.code == "source.elsewhere"
    assert says in error.message
    assert not (tmp_path / "ran").exists()


@needs_qemu
def test_an_image_that_changes_after_it_was_judged(tmp_path: Path) -> None:
    """A server that opened another file is not read from."""
    other = random_image(tmp_path / "other", 4096)
    path = vmdk(tmp_path / "image", FLAT.format(other))
    with path.open("rb") as image, pytest.raises(OSError, match="refers qemu-nbd to another file"):
        NbdServer(image.fileno(), Format.VMDK)


@pytest.mark.parametrize("there", [True, False])
def test_the_programs_words_are_not_for_everybody(programs: Path, tmp_path: Path, *, there: bool) -> None:
    """A confined job gets one answer for all errors of qemu-img, whose messages reveal files."""
    elsewhere = '{"virtual-size": 8, "filename": "x", "backing-filename": "/secret"}'
    script(programs, "qemu-img", f"echo '{elsewhere}'" if there else "echo 'no /secret here' >&2; exit 1")
    path = tmp_path / "image"
    path.write_bytes(qcow2_header())
    with pytest.raises(RefusedError) as caught:
        open_source(str(path), Roots([tmp_path]))
    assert caught.value.code == "source.converter"
    assert caught.value.message == f"cannot read the qcow2 image {path}: qemu refuses it"
    assert "/secret" not in str(caught.value)


def test_the_servers_words_are_not_for_everybody(programs: Path, tmp_path: Path) -> None:
    """A confined job gets one answer for all errors of qemu-nbd."""
    script(programs, "qemu-img", f"case $1 in info) echo '{FACTS}';; *) echo '{MAP}';; esac")
    script(programs, "qemu-nbd", "echo 'no /secret here' >&2; exit 1")
    (tmp_path / "image").write_bytes(qcow2_header())
    volume = open_source(str(tmp_path / "image"), Roots([tmp_path]))
    with closing(volume), pytest.raises(SourceError, match="at byte 0: qemu refuses it"):
        volume.read_into(0, memoryview(bytearray(10)))


def test_a_disk_that_is_too_large_is_not_mapped(programs: Path, tmp_path: Path) -> None:
    """A disk that is too large is refused before its pieces are listed."""
    script(programs, "qemu-img", f"case $1 in info) echo '{FACTS}';; *) echo ran > {tmp_path}/ran;; esac")
    (tmp_path / "image").write_bytes(qcow2_header())
    with pytest.raises(RefusedError) as caught:
        open_source(str(tmp_path / "image"), most=4095)
    assert caught.value.code == "source.too_large"
    assert not (tmp_path / "ran").exists()


def test_a_disk_in_too_many_pieces(programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk of too many pieces is refused."""
    monkeypatch.setattr(converted, "MOST_PIECES", 3)

    (tmp_path / "image").write_bytes(qcow2_header())
    for pieces in (3, 4):
        told = [{"start": 512 * n, "length": 512, "zero": False, "data": False} for n in range(pieces)]
        script(programs, "qemu-img", f"case $1 in info) echo '{FACTS}';; *) echo '{json.dumps(told)}';; esac")
        if pieces == 3:
            opened(tmp_path / "image").close()
        else:
            assert refused(tmp_path / "image").code == "source.scattered"


@pytest.mark.parametrize(("question", "blocks"), [("map", 33), ("info", 2)])
def test_an_answer_without_end(programs: Path, tmp_path: Path, question: str, blocks: int) -> None:
    """A program's answer is limited, and a longer one is not parsed."""
    long = f"/bin/dd if=/dev/zero bs=1048576 count={blocks}"
    script(programs, "qemu-img", f"case $1 in {question}) exec {long};; *) echo '{FACTS}';; esac")
    (tmp_path / "image").write_bytes(qcow2_header())
    error = refused(tmp_path / "image")
    assert error.code == "source.converter"
    assert "more than" in error.message


@needs_qemu
def test_ctrl_c_is_not_for_the_programs(disk: Path, tmp_path: Path) -> None:
    """The server has a session of its own, so a Ctrl-C for us does not end it."""
    with closing(opened(convert(disk, tmp_path / "image", "vhdx"))) as volume:
        volume.read_into(0, memoryview(bytearray(10)))
        (pid,) = servers()
        assert os.getsid(pid) == pid != os.getsid(0)


@needs_qemu
def test_what_serves_dies_with_us(disk: Path, tmp_path: Path) -> None:
    """A killed process leaves no server behind."""
    path = convert(disk, tmp_path / "image", "vhdx")
    code = (
        "import os, signal, subprocess, sys; from amistream.source.opening import open_source\n"
        "volume = open_source(sys.argv[1]); volume.read_into(0, memoryview(bytearray(10)))\n"
        "subprocess.run(['pgrep', '-P', str(os.getpid()), 'qemu-nbd']); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, check=False)
    try:
        server = os.pidfd_open(int(done.stdout))
    except ProcessLookupError:
        return
    try:
        assert select.select([server], [], [], 60)[0], "the server is still there"
    finally:
        os.close(server)
