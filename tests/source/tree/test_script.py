"""A script that changes the image of a tree: it works on a view, whose changes are laid over the tree."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from amistream.errors import RefusedError
from amistream.host import scripted
from amistream.host.scripted import ScriptStoppedError, run_script
from amistream.source.tree.report import MOVED, Fate
from amistream.values import MIB
from source.tree.images import content_of, is_clean, names_in, opened, shown_by_kernel, write_image
from source.tree.nasty import described
from support.mounts import mounted, small_disk

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root")

SPACE = 16 * MIB
LIMIT_S = 3600


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    for folder in ("etc", "opt/old/deep", "opt/kept", "srv"):
        (root / folder).mkdir(parents=True)
    (root / "etc/hostname").write_text("old\n")
    (root / "etc/key.pem").write_text("a key of the job\n")
    (root / "opt/old/deep/file").write_text("gone with its directory\n")
    (root / "opt/kept/file").write_text("kept\n")
    (root / "srv/file").write_text("stays below\n")
    (root / "srv/appended").write_bytes(b"x" * 100_000)
    os.setxattr(root / "srv/appended", "user.own", b"1")
    os.utime(root, ns=(0, 1_000_000_000_000_000_003))
    return root


@pytest.fixture(autouse=True)
def _mounts_work(tmp_path: Path) -> None:
    """Skip where root may not mount."""
    with small_disk(tmp_path / "probe", "64k"):
        pass
    (tmp_path / "probe").rmdir()


@pytest.fixture
def point(tmp_path: Path) -> Path:
    folder = tmp_path / "state"
    folder.mkdir()
    return folder


def written(tmp_path: Path, text: str) -> Path:
    script = tmp_path / "script"
    script.write_text(f'#!/bin/sh\nset -e\ncd "$1"\n{text}')
    script.chmod(0o755)
    return script


@contextmanager
def run(script: Path, point: Path, *directories: Path, space: int = SPACE) -> Iterator[int]:
    changes = run_script(script, directories, point=point, space=space, limit_s=LIMIT_S, stopped=lambda: False)
    try:
        yield changes
    finally:
        os.close(changes)


def nothing_left(point: Path) -> bool:
    """Nothing is mounted there, and nothing is in it."""
    return str(point) not in Path("/proc/self/mountinfo").read_text() and not list(point.iterdir())


def test_keeps_no_other_mount(tree: Path, point: Path, tmp_path: Path) -> None:
    """A mount that is unmounted elsewhere while the script runs is gone for it, too, so its device is free."""
    begun, gone = tmp_path / "begun", tmp_path / "gone"
    for each in (begun, gone):
        os.mkfifo(each)
    around = tmp_path / "around"
    around.mkdir()
    script = written(tmp_path, f"echo >{begun}; read _ <{gone}; ! grep -q {around}/other /proc/self/mountinfo\n")
    with mounted(around, around, "--bind"):
        subprocess.run(["mount", "--make-shared", around], check=True)
        subprocess.run(["mount", "-t", "tmpfs", "other", _made(around / "other")], check=True)

        def unmount() -> None:
            begun.read_text()
            subprocess.run(["umount", around / "other"], check=True)
            gone.write_text("\n")

        with ThreadPoolExecutor(1) as pool:
            unmounting = pool.submit(unmount)
            with run(script, point, tree):
                unmounting.result()


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def test_changed(tree: Path, point: Path, tmp_path: Path) -> None:
    """The image is the tree as the script left it, and the tree stays as it was; nothing is left mounted or on disk."""
    before = described(tree)
    script = written(
        tmp_path,
        """
        echo new >etc/hostname
        rm -r opt/old
        mkdir opt/old
        echo fresh >opt/old/fresh
        rm srv/file
        printf y >>srv/appended
        mv opt/kept opt/moved
        mkdir etc/made
        chown 7:8 etc/made
        ln etc/hostname etc/linked
        ln -s hostname etc/link
        chmod 711 .
        touch -d @5 .
    """,
    )
    with run(script, point, tree) as changes, opened(tree, changes=changes) as volume:
        image = write_image(volume, tmp_path / "image")
        volume.check_unchanged()
        assert volume.report.paths(*MOVED) == []
    assert is_clean(image)
    assert names_in(image, "/opt") == {"moved", "old"}
    assert names_in(image, "/opt/old") == {"fresh"}
    assert names_in(image, "/srv") == {"appended"}
    assert content_of(image, "/opt/moved/file") == b"kept\n"
    assert content_of(image, "/srv/appended") == b"x" * 100_000 + b"y"
    with shown_by_kernel(image, tmp_path / "mnt") as mount:
        assert (mount / "etc/linked").samefile(mount / "etc/hostname")
        assert (mount / "etc/linked").read_text() == "new\n"
        assert ((mount / "etc/made").stat().st_uid, (mount / "etc/made").stat().st_gid) == (7, 8)
        assert (mount.stat().st_mode & 0o7777, mount.stat().st_mtime) == (0o711, 5)
        names = [os.listxattr(path, follow_symlinks=False) for path in mount.rglob("*")]
        assert [name for each in names for name in each] == ["user.own"]
    assert described(tree) == before
    assert nothing_left(point)


def test_sees_the_overlay(tree: Path, point: Path, tmp_path: Path) -> None:
    """The script finds the overlay's files in its view, and its changes win."""
    over = tmp_path / "over"
    (over / "etc").mkdir(parents=True)
    (over / "etc/hostname").write_text("over\n")
    (over / "etc/more").write_text("more\n")
    script = written(tmp_path, "cat etc/hostname etc/more >etc/both; rm etc/more; rm etc/key.pem")
    with run(script, point, over, tree) as changes, opened(tree, overlay=over, changes=changes) as volume:
        image = write_image(volume, tmp_path / "image")
    assert is_clean(image)
    assert names_in(image, "/etc") == {"both", "hostname"}
    assert content_of(image, "/etc/both") == b"over\nmore\n"
    assert content_of(image, "/etc/hostname") == b"over\n"


def test_own_files_stay_out(tree: Path, point: Path, tmp_path: Path) -> None:
    """A file of the job that the script touched does not come in by its copy."""
    script = written(tmp_path, "chmod 600 etc/key.pem")
    with run(script, point, tree) as changes, opened(tree, changes=changes, own=[tree / "etc/key.pem"]) as volume:
        image = write_image(volume, tmp_path / "image")
        assert volume.report.paths(Fate.LEFT_OUT) == [b"etc/key.pem"]
    assert names_in(image, "/etc") == {"hostname"}
    assert b"a key of the job" not in image.read_bytes()


@pytest.mark.parametrize(
    ("text", "code", "says", "hint"),
    [
        ("echo one >&2; echo two >&2; exit 3", "script.failed", "ended with status 3", "one\ntwo"),
        ("kill -9 $$", "script.failed", "SIGKILL", "nothing"),
        ("kill -40 $$", "script.failed", "ended by signal 40", "nothing"),
        ("head -c 20M /dev/zero >big || true", "script.space", "fill the 16.0 MiB", "script_space"),
    ],
)
def test_refused(tree: Path, point: Path, tmp_path: Path, text: str, code: str, says: str, hint: str) -> None:
    """A script that fails, or has no space, refuses the job, with its last words."""
    with pytest.raises(RefusedError, match=says) as caught, run(written(tmp_path, text), point, tree):
        pass
    assert (caught.value.code, caught.value.field) == (code, "script")
    assert hint in caught.value.hint
    assert nothing_left(point)


def test_unusable(tree: Path, point: Path, tmp_path: Path) -> None:
    """A script that is missing, not executable, or no program is refused."""
    plain = written(tmp_path, "")
    plain.chmod(0o644)
    broken = tmp_path / "broken"
    broken.write_bytes(b"\x7fnothing")
    broken.chmod(0o755)
    for script in (tmp_path / "missing", plain, broken):
        with pytest.raises(RefusedError) as caught, run(script, point, tree):
            pass
        assert caught.value.code == "script.unusable"


def test_what_it_starts_ends(tree: Path, point: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that the script leaves behind ends with it, and gets no secret from the environment."""
    monkeypatch.setenv("SECRET_OF_THE_DAEMON", "x")
    alive = tmp_path / "alive"
    os.mkfifo(alive)
    reader = os.open(alive, os.O_RDONLY | os.O_NONBLOCK)
    # The script opens the pipe itself, so that it is open in the process that stays.
    script = written(tmp_path, f"exec 3>{alive}; env >&3; tail -f /dev/null & exit 0")
    with run(script, point, tree):
        os.set_blocking(reader, True)
        words = b""
        while more := os.read(reader, 10_000):  # to its end: the process is gone
            words += more
    os.close(reader)
    assert b"PATH=" in words
    assert b"SECRET" not in words


def test_leaves_its_errors_to_others(tree: Path, point: Path, tmp_path: Path) -> None:
    """A script that gave its standard error to a process elsewhere, which keeps it, has ended when it ends."""
    script = tmp_path / "script"
    code = (
        "import socket\nwith socket.socket(socket.AF_UNIX) as service:\n"
        f"    service.connect({str(tmp_path / 'service')!r})\n"
        "    socket.send_fds(service, [b'.'], [2])\n"
    )
    script.write_text(f"#!{sys.executable}\n{code}")
    script.chmod(0o755)
    with socket.socket(socket.AF_UNIX) as service:
        service.bind(str(tmp_path / "service"))
        service.listen(1)
        with run(script, point, tree):
            connection, _ = service.accept()
            with connection:
                _, (kept,), _, _ = socket.recv_fds(connection, 1, 1)
                os.close(kept)
    assert nothing_left(point)


def test_stopped(tree: Path, point: Path, tmp_path: Path) -> None:
    """A cancel ends the script with all its processes."""
    alive = tmp_path / "alive"
    os.mkfifo(alive)
    script = written(tmp_path, f"exec 3>{alive}; echo started >&3; exec tail -f /dev/null")
    reader = os.open(alive, os.O_RDONLY | os.O_NONBLOCK)
    heard = bytearray()

    def stopped() -> bool:
        try:
            heard.extend(os.read(reader, 100))
        except BlockingIOError:
            return False
        return bool(heard)

    with pytest.raises(ScriptStoppedError):
        run_script(script, [tree], point=point, space=SPACE, limit_s=LIMIT_S, stopped=stopped)
    os.set_blocking(reader, True)
    assert os.read(reader, 100) == b""
    os.close(reader)


def test_takes_too_long(tree: Path, point: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A script is ended with all its processes once its time is over; the job is refused, and nothing is left."""
    alive = tmp_path / "alive"
    os.mkfifo(alive)
    script = written(tmp_path, f"exec 3>{alive}; echo big >big; tail -f /dev/null & echo started >&3; wait")
    reader = os.open(alive, os.O_RDONLY | os.O_NONBLOCK)
    clock = 0.0

    def stopped() -> bool:
        """Let the script's whole time pass once it has begun."""
        nonlocal clock
        try:
            heard = os.read(reader, 100)
        except BlockingIOError:
            heard = b""
        clock += 2 * LIMIT_S * bool(heard)
        return False

    monkeypatch.setattr(scripted, "monotonic", lambda: clock)
    with pytest.raises(RefusedError, match="it was ended after 3600 s") as caught:
        run_script(script, [tree], point=point, space=SPACE, limit_s=LIMIT_S, stopped=stopped)
    assert (caught.value.code, caught.value.field) == ("script.timeout", "script")
    assert "script_timeout_s" in caught.value.hint
    os.set_blocking(reader, True)
    assert os.read(reader, 100) == b""  # to its end: all its processes are gone
    os.close(reader)
    assert nothing_left(point)
    assert not (tree / "big").exists()


def test_killed(tree: Path, point: Path, tmp_path: Path) -> None:
    """SIGKILL of this process ends the script, and leaves nothing mounted and nothing on disk."""
    alive = tmp_path / "alive"
    os.mkfifo(alive)
    script = written(tmp_path, f"exec 3>{alive}; echo big >big; echo started >&3; exec tail -f /dev/null")
    code = (
        "import sys; from pathlib import Path; from amistream.host.scripted import run_script\n"
        "script, tree, point = map(Path, sys.argv[1:])\n"
        f"run_script(script, [tree], point=point, space={SPACE}, limit_s={LIMIT_S}, stopped=lambda: False)"
    )
    daemon = subprocess.Popen([sys.executable, "-c", code, str(script), str(tree), str(point)])
    with alive.open("rb") as words:
        assert words.readline() == b"started\n"
        daemon.send_signal(signal.SIGKILL)
        daemon.wait()
        assert words.read() == b""  # to its end: the script is gone
    assert nothing_left(point)
    assert not (tree / "big").exists()
