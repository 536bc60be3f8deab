"""Trees that do not become an xfs: each refusal says why and what to do, and leaves nothing."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from amistream.errors import RefusedError
from amistream.host import capabilities
from amistream.source.tree.surroundings import StoppedError
from amistream.source.xfs_tree import making, opening
from amistream.values import MIB
from source.nobody import as_nobody, open_folder
from source.xfs_tree.images import SIZE, copied, nothing_left
from support.mounts import small_disk
from support.volumes import random_image


def refusal(
    tree: Path, scratch: Path | None, size: int = SIZE, *, is_there: bool = True, **wishes: object
) -> RefusedError:
    with pytest.raises(RefusedError) as caught, copied(tree, scratch, size, **wishes):
        pass
    assert scratch is None or not is_there or nothing_left(scratch)
    return caught.value


def test_not_root() -> None:
    """Only root may mount, and for another user nothing is even walked."""
    with open_folder() as folder, as_nobody():
        error = refusal(folder, folder)
    assert (error.code, error.field) == ("xfs.refused", "file_system")
    assert "as root, with --in-process" in error.hint


def test_root_that_may_not_mount(tree: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root without the capability, as in the daemon's unit, is refused alike, and so is a job that has no place."""
    assert refusal(tree, None).code == "xfs.refused"
    monkeypatch.setattr(capabilities, "MOUNTS", 0)
    assert refusal(tree, scratch).code == "xfs.refused"


def test_no_program(tree: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without mkfs.xfs its package is named."""
    monkeypatch.setattr(making, "_PROGRAM", "mkfs.none")
    error = refusal(tree, scratch)
    assert error.code == "xfs.no_mkfs"
    assert "xfsprogs" in error.hint


def test_program_fails(tree: Path, scratch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last words of mkfs.xfs are the reason."""
    program = tmp_path / "mkfs.broken"
    program.write_text('#!/bin/sh\ncase "$*" in *-V*) echo version 6.1.0 ;; *) echo no luck >&2; exit 1 ;; esac\n')
    program.chmod(0o755)
    monkeypatch.setattr(making, "_PROGRAM", str(program))
    error = refusal(tree, scratch)
    assert error.code == "xfs.failed"
    assert error.message.endswith(": no luck")


@pytest.mark.parametrize(("size", "says"), [(200 * MIB, "300.0 MiB"), (SIZE, "at least 400.0 MiB")])
def test_too_small(tree: Path, scratch: Path, size: int, says: str) -> None:
    """An image that is too small for an xfs, or for the tree, is refused with both sizes before anything is made."""
    os.truncate(tree / "etc/hostname", 0)
    if size == SIZE:
        with (tree / "large").open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, 399 * MIB)
            file.seek(398 * MIB)
            file.write(b"x")
    error = refusal(tree, scratch, size)
    assert (error.code, error.field) == ("source.no_room", "size")
    assert says in error.message


def test_full_while_it_is_copied(tree: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So is one that turns out to be too small."""
    (tree / "large").write_bytes(b"x" * (240 * MIB))
    monkeypatch.setattr(opening, "least_size", lambda *_: 0)
    error = refusal(tree, scratch)
    assert (error.code, error.field) == ("source.no_room", "size")


def test_no_space(tree: Path, scratch: Path) -> None:
    """A directory without room for the copy is refused before anything is made, with what is free and needed."""
    random_image(tree / "large", 8 * MIB)
    with small_disk(scratch, "40m"):
        error = refusal_on_disk(tree, scratch)
    assert error.code == "xfs.space"
    assert "it needs 88." in error.message
    assert "and 40.0 MiB are free" in error.message
    assert "scratch_dir" in error.hint


def test_no_space_after_all(tree: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory that is full in the middle of the copy is the reason, whatever error the kernel makes of it."""
    random_image(tree / "large", 120 * MIB)
    monkeypatch.setattr(opening, "space_needed", lambda *_: 0)
    with small_disk(scratch, "100m"):
        error = refusal_on_disk(tree, scratch)
    assert error.code == "xfs.space"
    assert error.message.endswith("has no room: it is full")


def test_no_directory(tree: Path, tmp_path: Path) -> None:
    """A directory that does not exist is no place, and is not made."""
    error = refusal(tree, tmp_path / "missing", is_there=False)
    assert error.code == "xfs.scratch"
    assert "missing: No such file or directory" in error.message
    assert not (tmp_path / "missing").exists()


def refusal_on_disk(tree: Path, scratch: Path) -> RefusedError:
    """A refusal with nothing left on the disk that is mounted on `scratch`."""
    with pytest.raises(RefusedError) as caught, copied(tree, scratch):
        pass
    found = os.statvfs(scratch)
    assert found.f_bfree == found.f_blocks
    return caught.value


def test_long_link(tree: Path, scratch: Path) -> None:
    """A link that xfs has no place for is named."""
    (tree / "link").symlink_to("n" * 1024)
    error = refusal(tree, scratch)
    assert error.code == "source.link_too_long"
    assert "/link is a link to a name of 1024 bytes" in error.message


@pytest.mark.parametrize("number", [1, 5, 9])
def test_stopped(tree: Path, scratch: Path, number: int) -> None:
    """A cancel ends the walk, and the copy."""
    for name in range(5):
        (tree / str(name)).write_text("x")
    asked = iter(range(100))
    with pytest.raises(StoppedError), copied(tree, scratch, stopped=lambda: next(asked) == number):
        pass
    assert nothing_left(scratch)


def test_guard_killed(tree: Path, scratch: Path) -> None:
    """If the process that mounts is killed, the job is refused: what is in the file may not be whole."""

    def kill_guard() -> bool:
        for each in Path("/proc/self/task").glob("*/children"):
            for pid in each.read_text().split():
                if "mount_guard" in Path(f"/proc/{pid}/cmdline").read_text():
                    os.kill(int(pid), signal.SIGKILL)
        return False

    error = refusal(tree, scratch, stopped=kill_guard)
    assert error.code == "xfs.mount"
    assert "was ended" in error.message
