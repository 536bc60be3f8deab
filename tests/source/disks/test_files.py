"""Files read from images of ext2, ext3 and ext4, made by mke2fs from a tree that is compared with them."""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from amistream.source.disks.ext4.files import Ext4Tree
from amistream.source.disks.files import Files, Kind, Node
from amistream.source.disks.reading import DoubtError, Reader

SIZE = 12 << 20
VARIANTS = {
    "ext2": "-t ext2 -I 128",
    "ext3, 1 KiB": "-t ext3 -b 1024",
    "ext4, 1 KiB": "-t ext4 -b 1024",
    "ext4, 4 KiB": "-t ext4 -b 4096",
    "inline": "-t ext4 -b 4096 -I 256 -O inline_data",
    "inline, 1 KiB": "-t ext4 -b 1024 -I 512 -O inline_data,metadata_csum",
    "64bit": "-t ext4 -O 64bit,metadata_csum,metadata_csum_seed",
    "no types": "-t ext4 -b 2048 -O ^filetype,^dir_index",
    "meta_bg": "-t ext4 -O meta_bg,^resize_inode",
    "bigalloc": "-t ext4 -b 4096 -C 8192 -O bigalloc",
}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    top = tmp_path_factory.mktemp("tree")
    noise = random.Random(14)
    for directory in ("etc", "usr/lib", "many", "few"):
        (top / directory).mkdir(parents=True)
    for name, size in {"empty": 0, "in_map": 59, "in_inode": 110, "odd": 5_001, "large": 1_500_000}.items():
        (top / "etc" / name).write_bytes(noise.randbytes(size))
    with (top / "usr/lib/sparse").open("wb") as file:
        for place in (400_000, 900_000):
            file.seek(place)
            file.write(noise.randbytes(30_000))
    for number in range(400):
        (top / "many" / f"name-{number:04}-{'x' * (number % 60)}").write_bytes(b"%d" % number)
    (top / "few/a").write_bytes(b"a")
    Path(os.fsdecode(os.fsencode(top) + b"/few/\xff")).write_bytes(b"not UTF-8")
    for name, target in {
        "lib": "usr/lib",
        "etc/above": "../../../usr/lib/../../etc/odd",
        "etc/absolute": "/lib/sparse",
        "etc/long": "../etc/" * 30 + "odd",
        "round": "about",
        "about": "/round",
        "nowhere": "etc/odd/beyond",
    }.items():
        (top / name).symlink_to(target)
    return top


def make(image: Path, tree: Path, options: str) -> Path:
    words = ("mke2fs", "-q", "-F", *options.split(), "-d", str(tree), str(image), f"{SIZE >> 10}k")
    subprocess.run(words, check=True, capture_output=True)
    return image


@pytest.fixture(scope="module", params=list(VARIANTS.values()), ids=list(VARIANTS))
def image(request: pytest.FixtureRequest, tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("image") / "image", tree, request.param)


def reader(data: bytes | bytearray) -> Reader:
    def read(offset: int, length: int) -> bytes:
        if not 0 <= offset <= offset + length <= len(data):
            raise DoubtError("beyond the end")
        return bytes(data[offset : offset + length])

    return read


def files_of(image: Path) -> Files:
    data = image.read_bytes()
    return Files(Ext4Tree(reader(data), len(data)))


def test_every_file_is_as_in_the_tree(image: Path, tree: Path) -> None:
    """Names, content, holes and targets of links are those of the tree, for each variant of the file system."""
    files = files_of(image)
    for directory, _, _ in os.walk(tree):
        inside = f"/{os.path.relpath(directory, tree)}"
        names = [name for name in files.names(inside) if name != "lost+found"]
        assert names == sorted(path.name for path in Path(directory).iterdir())
        for name in names[:50]:
            path = Path(directory, name)
            if path.is_symlink():
                assert files.link(f"{inside}/{name}") == str(path.readlink())
            elif path.is_file():
                assert files.read(f"{inside}/{name}", SIZE) == path.read_bytes()


def test_a_part_of_a_file(image: Path, tree: Path) -> None:
    """A part that begins in a hole, and one beyond the end, are read as from the file."""
    file = files_of(image).file("/lib/sparse")
    assert file is not None
    content = (tree / "usr/lib/sparse").read_bytes()
    assert (file.path, file.size) == ("/usr/lib/sparse", len(content))
    for offset in (399_990, 429_000, 899_000, len(content) - 5, len(content), len(content) + 5):
        assert file.read(offset, 2_000) == content[offset : offset + 2_000]


def test_links(image: Path, tree: Path) -> None:
    """Links stay within the image, absolute ones begin at its root, and circles lead nowhere."""
    files = files_of(image)
    odd = (tree / "etc/odd").read_bytes()
    assert files.read("/etc/above", SIZE) == files.read("/etc/long", SIZE) == files.read("../etc/./odd", SIZE) == odd
    assert files.read("/etc/absolute", 9) == bytes(9)
    assert [files.exists(path) for path in ("/round", "/about", "/nowhere", "/etc/odd/", "/lib/")] == [
        False,
        False,
        False,
        True,
        True,
    ]
    link = files.node("/round", follow=False)
    assert link is not None
    assert link.kind is Kind.LINK
    assert files.names("/etc/odd") == files.names("/nothing") == []


def test_attributes(tmp_path: Path, tree: Path) -> None:
    """An inode's extended attributes are seen, in the inode or in a block, and its inline content is none of them."""
    for options in (VARIANTS["inline"], VARIANTS["ext2"]):
        image = make(tmp_path / "image", tree, options)
        words = ("debugfs", "-w", "-R", "ea_set /etc/odd security.selinux system_u:object_r:etc_t:s0", str(image))
        subprocess.run(words, check=True, capture_output=True)
        files = files_of(image)
        seen = [node.has_attributes for path in ("/etc/odd", "/etc/in_inode") if (node := files.node(path))]
        assert seen == [True, False]


def test_another_file_system_in_a_directory(tmp_path: Path, tree: Path) -> None:
    """A mounted file system covers its directory, also for a link that leads there, and `..` leads out of it."""
    image = make(tmp_path / "image", tree, VARIANTS["ext4, 1 KiB"])
    data = image.read_bytes()
    one = Ext4Tree(reader(data), len(data))
    files = Files(one, {"/usr/lib": one})
    assert files.names("/usr/lib") == files.names("/")
    assert files.read("/lib/few/a", 9) == b"a"
    assert files.read("/lib/../../few/a", 9) == b"a"
    assert not files.exists("/lib/sparse")


def test_damaged_images(tmp_path: Path, tree: Path) -> None:
    """A damaged file system is read, or is a doubt, and nothing else."""
    doubts = 0
    for name in ("ext2", "ext4, 1 KiB", "inline, 1 KiB"):
        data = bytearray(make(tmp_path / "image", tree, VARIANTS[name]).read_bytes())
        # Superblock, descriptors, inodes and directories: neither empty nor noise.
        places = [place for place in range(1024, len(data), 512) if 50 < data[place : place + 512].count(0) < 512]
        for seed in range(60):
            chance = random.Random(seed)
            flips = [(chance.choice(places) + chance.randrange(512), 1 << chance.randrange(8)) for _ in range(100)]
            for place, bit in flips:
                data[place] ^= bit
            doubts += _is_doubt(data)
            for place, bit in flips:
                data[place] ^= bit
        assert not _is_doubt(data)
    assert doubts > 50


def _is_doubt(data: bytearray) -> bool:
    try:
        files = Files(Ext4Tree(reader(data), len(data)))
        for path in ("/etc/in_inode", "/etc/large", "/lib/sparse", "/etc/above", "/etc/long", "/few"):
            files.read(path, SIZE)
            files.names(path)
    except DoubtError:
        return True
    return False


class Endless:
    """A file system whose directories all hold themselves, and more names than anybody counts."""

    root = 1

    def node(self, number: int) -> Node:
        kind = {1: Kind.DIRECTORY, 2: Kind.LINK}[number]
        return Node(number=number, kind=kind, size=4096, has_attributes=False)

    def entries(self, _directory: Node) -> Iterator[tuple[str, int]]:
        yield "self", 1
        yield "link", 2
        while True:
            yield "more", 1

    def content(self, _file: Node, _offset: int, length: int) -> bytes:
        return b"self/" * (length // 5) + b"link"


def test_bounds() -> None:
    """A path through endless links, and a directory without end, are doubts."""
    files = Files(Endless())
    with pytest.raises(DoubtError, match="leads through more than"):
        files.exists("/self/link")
    with pytest.raises(DoubtError, match="has more than"):
        files.names("/self")
