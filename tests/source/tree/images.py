"""Images of trees, and their referees: e2fsck, debugfs, and the kernel."""

from __future__ import annotations

import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

from amistream.source.tree.groups import Identity
from amistream.source.tree.image import Image
from amistream.source.tree.layout import Kind, Layout
from amistream.source.tree.opening import TreeWishes, open_tree
from amistream.source.tree.profiles import BLOCK
from amistream.source.tree.volume import TreeVolume
from support.mounts import mounted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from amistream.ports.volume import Volume

MIB, GIB = 1024**2, 1024**3
IDENTITY = Identity(uuid=UUID("2a8c7a0e-57f1-4a57-8f53-0c4b3f6d9e11"), label=b"root", time=1_700_000_000)


@contextmanager
def opened(path: Path, size: int = 64 * MIB, **wishes: object) -> Iterator[TreeVolume]:
    """Open a directory as a volume."""
    volume = open_tree(path, TreeWishes(**{"most": 10 * GIB, "size": size, **wishes}))  # type: ignore[arg-type]
    assert isinstance(volume, TreeVolume)
    try:
        yield volume
    finally:
        volume.close()


def write_image(volume: Volume, path: Path, chunk: int = 4 * MIB) -> Path:
    """Write what the extents hold, as the data path reads it: into buffers that are not clean."""
    with path.open("wb") as file:
        file.truncate(volume.size)
        for extent in volume.extents():
            for start in range(extent.offset, extent.end, chunk):
                buffer = memoryview(bytearray(b"\xaa" * min(chunk, extent.end - start)))
                volume.read_into(start, buffer)
                file.seek(start)
                file.write(buffer)
    return path


def write_metadata(layout: Layout, path: Path, size: int) -> Path:
    """Write an image of a tree whose files nobody made: their data are holes."""
    image = Image(layout, IDENTITY)
    segments = layout.segments
    with path.open("wb") as file:
        file.truncate(size)
        for segment in range(len(segments)):
            if segments.kind[segment] != Kind.FILE:
                file.seek(segments.start[segment] * BLOCK)
                file.write(b"".join(image.block(segment, place) for place in range(segments.length[segment])))
    return path


def is_clean(image: Path) -> bool:
    """Ask e2fsck, by its exit status."""
    done = subprocess.run(["e2fsck", "-fn", image], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return True


def debugfs(image: Path, command: str) -> str:
    done = subprocess.run(["debugfs", "-R", command, image], capture_output=True, check=True)
    return done.stdout.decode("utf-8", "surrogateescape")


def content_of(image: Path, name: str) -> bytes:
    """The content of a file in an image, as debugfs reads it."""
    return subprocess.run(["debugfs", "-R", f'cat "{name}"', image], capture_output=True, check=True).stdout


def names_in(image: Path, folder: str = "/") -> set[str]:
    """The names in a directory of an image, but for those of every file system."""
    lines = debugfs(image, f'ls -p "{folder}"').splitlines()
    return {line.split("/")[5] for line in lines if line.startswith("/")} - {"", ".", "..", "lost+found"}


@contextmanager
def shown_by_kernel(image: Path, where: Path, *, writable: bool = False) -> Iterator[Path]:
    with mounted(image, where, "-o", "loop" if writable else "loop,ro"):
        yield where
