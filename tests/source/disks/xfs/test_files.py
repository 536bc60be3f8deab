"""Files read from images of xfs: filled by mkfs.xfs, or by the kernel, from trees that are compared with them."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from amistream.source.disks.files import Files, Kind
from amistream.source.disks.reading import DoubtError, Reader
from amistream.source.disks.xfs.files import XfsTree
from source.disks.xfs.filled import SIZE, make, reader
from support.mounts import mounted
from support.volumes import xfs_image

VARIANTS = {
    "version 5": (),
    "blocks of 1 KiB": ("-b", "size=1024"),
    "directories of 16 KiB": ("-n", "size=16384", "-i", "nrext64=1"),
    "version 4": ("-m", "crc=0"),
    "version 4, no kinds": ("-m", "crc=0", "-n", "ftype=0", "-b", "size=1024"),
}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    top = tmp_path_factory.mktemp("tree")
    noise = random.Random(14)
    (top / "usr/lib").mkdir(parents=True)
    for directory, count in (("few", 3), ("block", 40), ("leaf", 300), ("node", 1500)):
        (top / directory).mkdir()
        for number in range(count):
            (top / directory / f"name-{number:04}-{'x' * (number % 60)}").write_bytes(b"%d" % number)
    (top / "usr/lib/large").write_bytes(noise.randbytes(900_001))
    (top / "usr/lib/empty").write_bytes(b"")
    for name, target in {"lib": "usr/lib", "usr/above": "../../lib/large", "long": "few/../" * 15 + "few"}.items():
        (top / name).symlink_to(target)
    return top


@pytest.fixture(scope="module", params=list(VARIANTS.values()), ids=list(VARIANTS))
def image(request: pytest.FixtureRequest, tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return xfs_image(tmp_path_factory.mktemp("image") / "image", SIZE, tree, *request.param)


def files_of(image: Path) -> Files:
    return Files(XfsTree(reader(image), image.stat().st_size))


def compare(files: Files, tree: Path) -> None:
    for directory, _, _ in os.walk(tree):
        inside = f"/{os.path.relpath(directory, tree)}"
        names = files.names(inside)
        assert names == sorted(path.name for path in Path(directory).iterdir())
        for name in names[:40]:
            path = Path(directory, name)
            if path.is_symlink():
                assert files.link(f"{inside}/{name}") == str(path.readlink())
            elif path.is_file():
                assert files.read(f"{inside}/{name}", SIZE) == path.read_bytes()


def test_every_file_is_as_in_the_tree(image: Path, tree: Path) -> None:
    """Names, content and targets of links are those of the tree, for directories of every form."""
    files = files_of(image)
    compare(files, tree)
    assert files.read("/usr/above", 9) == (tree / "usr/lib/large").read_bytes()[:9]
    assert len(files.names("/long")) == 3
    assert not files.exists("/few/none")


def test_what_the_kernel_writes(tmp_path: Path) -> None:
    """A file with holes in hundreds of runs, gaps in directories, attributes and preallocated blocks are read."""
    image = make(tmp_path / "image")
    with mounted(image, tmp_path / "mounted", "-o", "loop") as where:
        with (where / "holes").open("wb") as file:
            for number in range(300):
                file.seek(number * 20_000)
                file.write(b"%d" % number * 30)
        (where / "long").symlink_to("many/../" * 100 + "holes")
        (where / "many").mkdir()
        for number in range(900):
            (where / "many" / f"name-{number}").write_bytes(b"")
        for number in range(0, 900, 3):
            (where / "many" / f"name-{number}").unlink()
        with (where / "preallocated").open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, 100_000)
        os.setxattr(where / "preallocated", "user.word", b"value")
        files = {path.name: path.read_bytes() for path in where.iterdir() if path.is_file()}
        names = sorted(path.name for path in (where / "many").iterdir())
    found = files_of(image)
    assert found.names("/many") == names
    assert found.link("/long") == "many/../" * 100 + "holes"
    assert {name: found.read(f"/{name}", SIZE) for name in files} == files
    nodes = [found.node(f"/{name}") for name in ("holes", "preallocated", "many")]
    assert [node.has_attributes for node in nodes if node] == [False, True, False]
    assert [node.kind for node in nodes if node] == [Kind.FILE, Kind.FILE, Kind.DIRECTORY]


def test_damaged_images(image: Path) -> None:
    """A damaged file system is read, or is a doubt, and nothing else."""
    inner = reader(image)
    doubts = 0
    for seed in range(40):
        chance = random.Random(seed)
        try:
            files = Files(XfsTree(_flipping(inner, chance), SIZE))
            for path in ("/usr/lib/large", "/usr/above", "/long/none"):
                files.read(path, SIZE)
            for path in ("/few", "/block", "/leaf", "/node"):
                files.names(path)
        except DoubtError:
            doubts += 1
    assert doubts > 10, doubts


def _flipping(read: Reader, chance: random.Random) -> Reader:
    """The reader, with some of the bytes that it gives changed, but for the superblock's."""

    def read_changed(offset: int, length: int) -> bytes:
        data = bytearray(read(offset, length))
        if offset >= 512 and data and chance.random() < 0.2:
            data[chance.randrange(min(len(data), 256))] ^= 1 << chance.randrange(8)
        return bytes(data)

    return read_changed
