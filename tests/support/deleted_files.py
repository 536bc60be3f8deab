"""File systems with files and with the marked data of deleted ones, and looks at what became of them."""

from __future__ import annotations

import random
import shutil
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from support.mounts import mounted

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KIB, MIB = 1 << 10, 1 << 20
MARKER = b"DELETED-DATA-OF-AMISTREAM-TESTS\n"
_DELETED = 3 * KIB

Files = dict[str, bytes]


def make_file_system(path: Path, kind: str, size: int, *options: str, preallocate: bool = False) -> Files:
    """Make a file system with small files, as many deleted ones between them and a large deleted one; give the files.

    `preallocate`: then give most of the freed space to a file that is never written.
    """
    if shutil.which(f"mkfs.{kind}") is None:
        pytest.skip(f"mkfs.{kind} is not installed")
    with path.open("wb") as file:
        file.truncate(size)
    run(f"mkfs.{kind}", "-q", *options, str(path))
    source, files = random.Random(14), {}
    with mounted(path, path.with_name(f"{path.name}.mounted"), "-o", "loop") as where:
        for number in range(200):
            files[f"{number}"] = source.randbytes(3 * KIB)
            (where / f"{number}").write_bytes(files[f"{number}"])
            (where / f"{number}.deleted").write_bytes(MARKER * (_DELETED // len(MARKER)))
        (where / "large.deleted").write_bytes(MARKER * (2 * MIB // len(MARKER)))
        # Deleted before they are written out, files would leave nothing behind.
        run("sync", "-f", str(where))
        for deleted in where.glob("*.deleted"):
            deleted.unlink()
        if preallocate:
            run("fallocate", "-l", str(2 * MIB), str(where / "preallocated"))
            files["preallocated"] = bytes(2 * MIB)
    assert markers(path) > 2000
    return files


def markers(path: Path) -> int:
    """How often the deleted data is in a file."""
    done = subprocess.run(["grep", "-c", "--text", MARKER.decode().strip(), path], capture_output=True, check=False)
    assert done.returncode in {0, 1}, done.stderr
    return int(done.stdout)


def check_file_system(path: Path, kind: str, files: Files, *, offset: int = 0, size: int = 0) -> None:
    """Prove that the file system in (a part of) an image is clean by its own checker, and has exactly these files."""
    where = path.with_name(f"{path.name}.mounted")
    with _alone(path, offset, size) as alone:
        run(*(["e2fsck", "-fn"] if kind.startswith("ext") else ["xfs_repair", "-n"]), str(alone))
        with mounted(alone, where, "-o", "loop,ro"):
            found = {each.name: each.read_bytes() for each in where.iterdir() if each.is_file()}
    assert found == files


@contextmanager
def _alone(path: Path, offset: int, size: int) -> Iterator[Path]:
    """Give a file with a part of an image."""
    if not size:
        yield path
        return
    part = path.with_name(f"{path.name}.part")
    with path.open("rb") as image, part.open("wb") as file:
        image.seek(offset)
        file.truncate(size)
        for start in range(0, size, MIB):
            piece = image.read(min(MIB, size - start))
            if any(piece):
                file.seek(start)
                file.write(piece)
    yield part
    part.unlink()


def run(*argv: str) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{argv}: {done.stdout}{done.stderr}"
