"""A tree that moves between the walk and the reading: the image stays clean, and exactly the moved files are named."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path
from typing import Any

import pytest

from amistream.errors import RefusedError, SourceError
from amistream.source.tree.handles import OpenDirectory, SwappedError, open_regular
from amistream.source.tree.report import MOVED, Fate
from amistream.source.tree.walk import Walk
from source.nobody import as_nobody, open_folder
from source.tree.images import content_of, is_clean, opened, write_image
from support.mounts import mounted

SECRET = b"from outside of the tree"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    for folder in ("a", "b", "c"):
        (root / folder).mkdir(parents=True)
        for number in range(4):
            (root / folder / f"file{number}").write_bytes(b"%d" % number * 5_000)
    return root


def open_descriptors() -> list[str]:
    return sorted(entry.name for entry in os.scandir("/proc/self/fd"))


def set_back(path: Path) -> None:
    """Make a file's change certain to show in its times."""
    os.utime(path, ns=(0, 1_000_000_000))


def test_every_change(tree: Path, tmp_path: Path) -> None:
    """Files that grew, shrank, changed, went or were replaced are cut, filled or zeros, and the others are equal."""
    with opened(tree) as volume:
        with (tree / "a/file0").open("ab") as file:
            file.write(b"more")
        os.truncate(tree / "a/file1", 100)
        (tree / "a/file2").write_bytes(b"X" * 5_000)
        set_back(tree / "a/file2")
        (tree / "b/file0").unlink()
        (tree / "b/other").write_bytes(b"Y" * 5_000)
        (tree / "b/other").replace(tree / "b/file1")
        (tree / "c").rename(tree / "moved")
        image = write_image(volume, tmp_path / "image")
        volume.check_unchanged()
        report = volume.report
        assert report.paths(Fate.CUT) == [b"a/file0"]
        assert report.paths(Fate.SHRUNK) == [b"a/file1"]
        assert report.paths(Fate.CHANGED) == [b"a/file2"]
        gone = [b"b/file0", b"b/file1", *(b"c/file%d" % number for number in range(4))]
        assert report.paths(Fate.GONE) == gone
        assert report.named(Fate.GONE) == "6 files (/b/file0, /b/file1, /c/file0, /c/file1, /c/file2 and 1 more)"
    assert is_clean(image)
    assert content_of(image, "/a/file0") == b"0" * 5_000
    assert content_of(image, "/a/file1") == b"1" * 100 + bytes(4_900)
    assert content_of(image, "/a/file2") == b"X" * 5_000
    assert content_of(image, "/a/file3") == b"3" * 5_000
    for name in ("/b/file0", "/b/file1", "/c/file3"):
        assert content_of(image, name) == bytes(5_000)


def test_another_pass(tree: Path, tmp_path: Path) -> None:
    """A pass that begins anew forgets what moved during the one before, but not what vanished during the walk."""

    def walked() -> bool:
        """Called for each name, once those of its directory are known."""
        (tree / "b/file2").unlink(missing_ok=True)
        return False

    with opened(tree / "b", stopped=walked) as volume:
        assert volume.report.paths(*MOVED) == [b"file2"]
        (tree / "b/file3").rename(tmp_path / "elsewhere")
        volume.check_unchanged()
        assert volume.report.paths(*MOVED) == [b"file2", b"file3"]
        (tmp_path / "elsewhere").rename(tree / "b/file3")
        volume.rewind()
        assert volume.report.paths(*MOVED) == [b"file2"]


def test_changed_after_it_was_read(tree: Path) -> None:
    """A file that was read early and changes later is found at the end."""
    with opened(tree) as volume:
        volume.read_into(0, memoryview(bytearray(volume.size)))
        assert volume.report.paths(*MOVED) == []
        set_back(tree / "a/file2")
        (tree / "b/file3").unlink()
        volume.check_unchanged()
        assert volume.report.paths(Fate.CHANGED) == [b"a/file2"]
        assert volume.report.paths(Fate.GONE) == [b"b/file3"]
        volume.rewind()
        assert volume.report.paths(*MOVED) == []


@pytest.mark.parametrize("moment", ["before the reading", "behind it"])
def test_time_set_back(tree: Path, moment: str) -> None:
    """A file of another content is found at the end by its ctime, though it has the size and mtime of the walk."""
    path = tree / "a/file2"
    about = path.stat()
    with opened(tree) as volume:
        if moment == "behind it":
            volume.read_into(0, memoryview(bytearray(volume.size)))
        path.write_bytes(b"X" * 5_000)
        os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))
        if moment == "before the reading":
            volume.read_into(0, memoryview(bytearray(volume.size)))
        assert volume.report.paths(*MOVED) == []
        volume.check_unchanged()
        assert volume.report.paths(*MOVED) == volume.report.paths(Fate.CHANGED) == [b"a/file2"]


def test_nothing_moved(tree: Path) -> None:
    """Reading a tree does not change it: no file is named, and the next plan is the same."""
    with opened(tree) as volume:
        volume.read_into(0, memoryview(bytearray(volume.size)))
        volume.check_unchanged()
        assert volume.report.paths(*MOVED) == []
        first = volume.digest
    with opened(tree) as volume:
        assert volume.digest == first
    set_back(tree / "a/file0")
    with opened(tree) as volume:
        assert volume.digest != first


def test_link_in_place_of_a_directory(tree: Path, tmp_path: Path) -> None:
    """A directory or a file that is swapped for a link leads nowhere: nothing from outside comes in."""
    outside = tmp_path / "outside"
    outside.mkdir()
    for number in range(4):
        (outside / f"file{number}").write_bytes(SECRET)
    with opened(tree) as volume:
        shutil.rmtree(tree / "a")
        (tree / "a").symlink_to(outside)
        (tree / "b/file0").unlink()
        (tree / "b/file0").symlink_to(outside / "file0")
        image = write_image(volume, tmp_path / "image")
        assert volume.report.paths(Fate.GONE) == [*(b"a/file%d" % number for number in range(4)), b"b/file0"]
    assert is_clean(image)
    assert SECRET not in image.read_bytes()


def test_file_in_place_of_a_link(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A link that is swapped for a file while it is looked at is named, and is no reason to refuse the tree."""
    (tree / "link").symlink_to("a")
    readlink = os.readlink

    def swap(path: Any, *, dir_fd: int | None = None) -> Any:
        if dir_fd is not None:
            (tree / "link").unlink()
            (tree / "link").touch()
        return readlink(path, dir_fd=dir_fd)

    monkeypatch.setattr(os, "readlink", swap)
    with opened(tree) as volume:
        assert volume.report.paths(*Fate) == volume.report.paths(Fate.GONE) == [b"link"]


def test_another_directory_of_that_name(tree: Path, tmp_path: Path) -> None:
    """A directory in another's place is not entered, though its files have the right names."""
    with opened(tree) as volume:
        (tree / "a").rename(tmp_path / "away")
        (tree / "a").mkdir()
        for number in range(4):
            (tree / "a" / f"file{number}").write_bytes(SECRET)
        image = write_image(volume, tmp_path / "image")
    assert SECRET not in image.read_bytes()


@pytest.mark.parametrize("mode", [0o755, 0o777])
def test_pipe_and_device_in_place_of_a_file(tree: Path, tmp_path: Path, mode: int) -> None:
    """A pipe that is swapped in does not block the reading, and a device is not opened, whoever may write there."""
    (tree / "a").chmod(mode)
    with opened(tree) as volume:
        for name in ("file0", "file1"):
            (tree / "a" / name).unlink()
        os.mkfifo(tree / "a/file0")
        if os.geteuid() == 0:
            os.mknod(tree / "a/file1", 0o020600, os.makedev(1, 5))
        image = write_image(volume, tmp_path / "image")
        assert volume.report.paths(Fate.GONE) == [b"a/file0", b"a/file1"]
    assert is_clean(image)


@pytest.mark.parametrize("others_write", [False, True])
def test_pipe_in_place_of_a_file_that_is_being_opened(
    tree: Path, monkeypatch: pytest.MonkeyPatch, *, others_write: bool
) -> None:
    """A pipe that is swapped in between look and opening is not read.

    It is not even opened where others than root may put one: there the file that was looked at is read.
    """
    if os.geteuid() != 0:
        pytest.skip("needs directories of root")
    directory, away = tree / "a", tree / "away"
    directory.chmod(0o777 if others_write else 0o755)
    here = os.open(directory, os.O_RDONLY)
    about = (directory / "file0").stat()
    look = "fstat" if others_write else "stat"
    first = getattr(os, look)

    def swap(*arguments: Any, **options: Any) -> os.stat_result:
        found: os.stat_result = first(*arguments, **options)
        if not away.exists():
            (directory / "file0").rename(away)
            os.mkfifo(directory / "file0")
        return found

    above = OpenDirectory(here, only_root_writes=not others_write, as_walked=False)
    monkeypatch.setattr(os, look, swap)
    if others_write:
        opened = open_regular(b"file0", above, about.st_dev, about.st_ino)
        assert os.read(opened, 10_000) == b"0" * 5_000
        os.close(opened)
    else:
        with pytest.raises(SwappedError):
            open_regular(b"file0", above, about.st_dev, about.st_ino)
    os.close(here)


def test_pipe_in_a_directory_that_seems_unchanged(tree: Path) -> None:
    """A pipe in a file's place is not read, and blocks nothing, though its directory has the times of the walk."""
    here = os.open(tree / "a", os.O_RDONLY)
    about = (tree / "a/file0").stat()
    (tree / "a/file0").unlink()
    os.mkfifo(tree / "a/file0")
    with pytest.raises(SwappedError):
        open_regular(b"file0", OpenDirectory(here, only_root_writes=True, as_walked=True), about.st_dev, about.st_ino)
    os.close(here)


def swap_in(kind: str, path: Path) -> AbstractContextManager[object]:
    """Put something into a file's place that may do something when it is opened."""
    if kind == "mounted device":  # the times of the directory stay
        return mounted(Path("/dev/zero"), path, "--bind")
    path.unlink()
    os.mkfifo(path)
    return nullcontext()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs directories of root")
@pytest.mark.parametrize("kind", ["pipe", "mounted device"])
@pytest.mark.parametrize("moment", ["before the reading", "while its directory is read"])
def test_never_opened(tree: Path, monkeypatch: pytest.MonkeyPatch, kind: str, moment: str) -> None:
    """Nothing that is put into a file's place is opened, also in a directory that is open and was unchanged then."""
    victim = tree / "a/victim"
    victim.write_bytes(b"v" * 5_000)
    opened_names, really_open, clock = [], os.open, 0.0
    with ExitStack() as undo, opened(tree) as volume:

        def swap() -> None:
            nonlocal clock
            undo.enter_context(swap_in(kind, victim))
            clock = 1.0

        def open_later(path: Any, *given: Any, **named: Any) -> int:
            if path == b"file3" and not clock:
                swap()
            opened_names.append(path)
            return really_open(path, *given, **named)

        monkeypatch.setattr("time.monotonic", lambda: clock)
        if moment == "before the reading":
            swap()
        monkeypatch.setattr(os, "open", open_later)
        volume.read_into(0, memoryview(bytearray(volume.size)))
        volume.check_unchanged()
        monkeypatch.undo()
        assert volume.report.paths(*MOVED) == [b"a/victim"]
    assert b"file3" in opened_names
    assert b"victim" not in opened_names


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root")
@pytest.mark.parametrize("times", [1, 9])
def test_mounted_during_the_walk(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    """A directory of the same disk that is mounted there during the walk stays out; if that goes on, it is refused."""
    walks, really_run, point = 0, Walk.run, tree / "point"
    point.mkdir()
    with ExitStack() as undo:

        def run(walk: Walk, *given: Any, **named: Any) -> None:
            """Mount something after the kernel was asked for the mounts."""
            nonlocal walks
            walks += 1
            if walks <= times:
                outside = tmp_path / f"outside{walks}"
                outside.mkdir()
                (outside / "secret").write_bytes(SECRET)
                undo.enter_context(mounted(outside, point, "--bind"))
            really_run(walk, *given, **named)

        monkeypatch.setattr(Walk, "run", run)
        if times > 1:
            with pytest.raises(RefusedError) as caught, opened(tree):
                pass
            assert caught.value.code == "source.mounts_change"
            return
        with opened(tree) as volume:
            image = write_image(volume, tmp_path / "image")
            assert volume.report.paths(*Fate) == [b"point"]
    assert is_clean(image)
    assert SECRET not in image.read_bytes()
    assert content_of(image, "/a/file0") == b"0" * 5_000


def test_shorter_than_it_says() -> None:
    """A file that ends before its size is named, though nobody wrote to it."""
    with opened(Path("/sys/devices/virtual/mem/null"), exclude=["/power"]) as volume:
        volume.read_into(0, memoryview(bytearray(volume.size)))
        assert b"dev" in volume.report.paths(Fate.SHRUNK)


_HOLDS_A_LEASE = """
import fcntl, os, signal, sys
file = os.open(sys.argv[1], os.O_RDWR)
signal.signal(signal.SIGIO, lambda *_: fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_UNLCK))
fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
print("held", flush=True)
while sys.stdin.readline():
    fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    print("held", flush=True)
"""


def test_leased(tree: Path) -> None:
    """A file on which a file server has a lease is read as soon as the server has given that back."""
    path = tree / "a/file0"
    with subprocess.Popen(
        [sys.executable, "-c", _HOLDS_A_LEASE, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdin
        assert server.stdout
        assert server.stdout.readline() == "held\n"
        with opened(tree) as volume:
            server.stdin.write("again\n")
            server.stdin.flush()
            assert server.stdout.readline() == "held\n"
            buffer = bytearray(volume.size)
            volume.read_into(0, memoryview(buffer))
            assert volume.report.paths(*MOVED, Fate.UNREADABLE) == []
        server.stdin.close()
    assert b"0" * 5_000 in buffer


def test_unreadable_in_between() -> None:
    """A file that becomes unreadable ends the job, unless that is allowed: then it reads as zeros and is named."""
    if os.geteuid() != 0:
        pytest.skip("needs files of another user")
    with open_folder() as folder:
        (folder / "file").write_bytes(b"x" * 100_000)
        for allowed in (False, True):
            (folder / "file").chmod(0o644)
            with as_nobody(), opened(folder, allow_unreadable=allowed) as volume:
                os.seteuid(0)
                (folder / "file").chmod(0o600)
                os.seteuid(65534)
                if not allowed:
                    with pytest.raises(SourceError, match="cannot read /file of the tree"):
                        volume.read_into(0, memoryview(bytearray(volume.size)))
                    continue
                volume.read_into(0, memoryview(bytearray(volume.size)))
                assert volume.report.paths(Fate.UNREADABLE) == [b"file"]


def test_from_several_threads(tree: Path) -> None:
    """Several threads may read at once."""
    with opened(tree) as volume:
        whole = bytearray(volume.size)
        volume.read_into(0, memoryview(whole))
        pieces = [bytearray(volume.size) for _ in range(4)]

        def read(number: int) -> None:
            step = 5_001 * (number + 1)
            for start in range(0, volume.size, step):
                volume.read_into(start, memoryview(pieces[number])[start : start + step])

        threads = [threading.Thread(target=read, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert all(piece == whole for piece in pieces)


def test_no_descriptor_stays(tree: Path) -> None:
    """A volume that is closed leaves no descriptor open, and so does a tree that is refused."""
    before = open_descriptors()
    with opened(tree) as volume:
        volume.read_into(0, memoryview(bytearray(volume.size)))
        volume.check_unchanged()
    assert open_descriptors() == before


def test_deeper_than_descriptors(tmp_path: Path) -> None:
    """A tree that is deeper than the directories that are kept open is walked and read."""
    root = tmp_path / "deep"
    root.mkdir()
    here = root
    for number in range(150):
        here = here / f"d{number}"
        here.mkdir()
        (here / "file").write_bytes(b"%d" % number * 10)
    with opened(root) as volume:
        image = write_image(volume, tmp_path / "image")
        volume.check_unchanged()
        assert volume.report.paths(*MOVED) == []
    assert is_clean(image)
    assert content_of(image, "/" + "/".join(f"d{number}" for number in range(150)) + "/file") == b"149" * 10
