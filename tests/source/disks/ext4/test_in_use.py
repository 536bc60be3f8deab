"""File systems that are mounted: only a frozen one is believed."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING, NamedTuple

import pytest

from amistream.source.disks.reading import DoubtError
from source.disks.ext4.filled import MARKER, blocks_of, looked_at, restore, run, used
from support.mounts import mounted
from support.volumes import MIB

if TYPE_CHECKING:
    from pathlib import Path


class Copies(NamedTuple):
    """Copies of one file system at three moments."""

    mounted: Path
    frozen: Path
    """While a file that was deleted is still open."""
    unmounted: Path


@pytest.fixture(scope="module")
def copies(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Copies:
    here = tmp_path_factory.mktemp("in-use")
    found = Copies(here / "mounted.img", here / "frozen.img", here / "unmounted.img")
    run("mke2fs", "-q", "-F", "-t", "ext4", str(found.unmounted), "48M")
    with mounted(found.unmounted, here / "mount", "-o", "loop") as where:
        (where / "marker").write_bytes(MARKER * (32 * MIB // len(MARKER)))
        os.sync()
        (where / "marker").unlink()
        _preallocate(where / "preallocated")
        for name in ("one", "two"):
            (where / name).touch()
            os.setxattr(where / name, "user.same", b"in one block for both" * 20)
        with (where / "open").open("wb") as unlinked:
            unlinked.write(os.urandom(100_000))
            (where / "open").unlink()
            run("sync", "-f", str(where))
            shutil.copyfile(found.unmounted, found.mounted)
            _freeze(where)
            try:
                shutil.copyfile(found.unmounted, found.frozen)
            finally:
                run("fsfreeze", "--unfreeze", str(where))
    return found


def _preallocate(path: Path) -> None:
    """Take the freed blocks, and write into every tenth of the pieces: the tree of extents has two levels then."""
    with path.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, 24 * MIB)
        for offset in range(0, 24 * MIB, 96 << 10):
            os.pwrite(file.fileno(), b"written", offset)


def _freeze(where: Path) -> None:
    done = subprocess.run(["fsfreeze", "--freeze", str(where)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"no fsfreeze here: {done.stderr.strip()}")


def test_mounted(copies: Copies) -> None:
    """A copy of a mounted file system is doubted: its last changes are in the journal alone."""
    with pytest.raises(DoubtError, match="mounted or was not unmounted"):
        used(copies.mounted)


def _checked(path: Path) -> tuple[int, str]:
    """Ask e2fsck. It complains of a file that is deleted and still open, in the original too."""
    done = subprocess.run(["e2fsck", "-fn", str(path)], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout.replace(str(path), "")


def test_shared_attributes(copies: Copies) -> None:
    """A block of attributes may belong to several files."""
    acl = [
        run("debugfs", "-R", f"stat {name}", str(copies.unmounted)).split("File ACL: ")[1].split()[0]
        for name in ("one", "two")
    ]
    assert acl[0] == acl[1] != "0"
    assert used(copies.unmounted).free > 0


def test_unmounted(copies: Copies) -> None:
    """The file system that both were copied from is whole in the end."""
    assert _checked(copies.unmounted)[0] == 0


@pytest.mark.parametrize("moment", ["frozen", "unmounted"])
def test_preallocated(copies: Copies, moment: str, tmp_path: Path) -> None:
    """The content of preallocated blocks is left out, every file reads the same, and e2fsck finds nothing new."""
    path: Path = getattr(copies, moment)
    found = used(path)
    assert 20 * MIB < found.preallocated < 24 * MIB
    assert blocks_of(found, 1024) < looked_at(path).used
    assert path.read_bytes().count(MARKER) > 10_000
    copy = restore(path, found)
    assert MARKER not in copy.read_bytes()
    assert _checked(copy) == _checked(path)
    with mounted(path, tmp_path / "before", "-o", "loop,ro") as before:
        content = (before / "preallocated").read_bytes()
    with mounted(copy, tmp_path / "after", "-o", "loop,ro") as after:
        assert (after / "preallocated").read_bytes() == content
