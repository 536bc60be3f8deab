"""Images that several tests of xfs look at; none of them changes one."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING, NamedTuple

import pytest

from source.disks.xfs.filled import VERSION_4, files_below, make, make_full, make_unmounted, run, write_files
from support.mounts import mounted

if TYPE_CHECKING:
    from pathlib import Path


class Copies(NamedTuple):
    """Copies of one file system that is in use."""

    mounted: Path
    """After a sync: the last files are in the log alone."""
    frozen: Path
    files: dict[str, bytes]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("xfs")


@pytest.fixture(scope="session")
def full(folder: Path) -> Path:
    """A clean file system of version 5, free space in pieces, trees of two levels."""
    return make_full(folder / "full.img", "-b", "size=1024")


@pytest.fixture(scope="session")
def full_4(folder: Path) -> Path:
    """The same of version 4, which has no checksums."""
    return make_unmounted(folder / "full4.img", *VERSION_4["version 4"])


@pytest.fixture(scope="session")
def in_use(folder: Path) -> Copies:
    """A file system that is mounted, with files written a moment ago."""
    image = make(folder / "used.img")
    copied, frozen = folder / "copied-mounted.img", folder / "copied-frozen.img"
    with mounted(image, folder / "used", "-o", "loop") as where:
        write_files(where / "files", count=300)
        write_files(where / "last", count=60, seed=1)
        run("sync", "-f", str(where))
        shutil.copyfile(image, copied)
        done = subprocess.run(["fsfreeze", "--freeze", str(where)], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            pytest.skip(f"no fsfreeze here: {done.stderr.strip()}")
        try:
            shutil.copyfile(image, frozen)
        finally:
            run("fsfreeze", "--unfreeze", str(where))
        files = files_below(where)
    return Copies(copied, frozen, files)
