"""Layouts of trees that nobody made, as rows alone: at the bounds of groups, of sizes and of directories."""

from __future__ import annotations

import random
import stat
from pathlib import Path

import pytest

from amistream.source.tree.geometry import FileTooLargeError, NoRoomError, TooManyLinksError, make_geometry
from amistream.source.tree.image import Image
from amistream.source.tree.layout import Kind, Layout
from amistream.source.tree.profiles import BLOCK, GROUP, PROFILES, Profile
from amistream.source.tree.records import hash_seed, packed_time
from amistream.source.tree.tree import LOST_AND_FOUND, LOST_AND_FOUND_NAME, ROOT, Row, Tree, used_inodes
from amistream.source.tree.xattrs import Attribute
from source.tree.images import IDENTITY, debugfs, is_clean, write_metadata

EXT4, EXT3 = PROFILES["ext4"], PROFILES["ext3"]
TIME = packed_time(1_700_000_000_000_000_000)


def folder() -> Row:
    return Row(mode=stat.S_IFDIR | 0o755, mtime=TIME, ctime=TIME)


def file(size: int, **more: object) -> Row:
    return Row(mode=stat.S_IFREG | 0o644, mtime=TIME, ctime=TIME, size=size, **more)  # type: ignore[arg-type]


def make_tree(*names: tuple[bytes, Row]) -> Tree:
    """One directory with these names."""
    tree = Tree()
    tree.add(folder(), ROOT)
    tree.add(folder(), ROOT)
    for name, row in names:
        tree.name(tree.add(row, ROOT), name)
    tree.name(LOST_AND_FOUND, LOST_AND_FOUND_NAME)
    tree.entry[LOST_AND_FOUND] = len(names)
    tree.entries[ROOT] = 0, len(names) + 1
    return tree


def lay_out(tree: Tree, blocks: int, profile: Profile = EXT4) -> Layout:
    geometry = make_geometry(profile, blocks, used_inodes(len(tree)))
    return Layout(tree, geometry, hash_seed(IDENTITY.uuid))


def check(layout: Layout, path: Path, blocks: int) -> Path:
    """The image is clean, and no block has two contents."""
    segments = layout.segments
    end = 0
    for start, length in zip(segments.start, segments.length, strict=True):
        assert start >= end
        end = start + length
    assert end <= layout.geometry.blocks
    assert is_clean(write_metadata(layout, path, blocks * BLOCK))
    return path


@pytest.mark.parametrize("profile", ["ext4", "ext4-csum", "ext3"])
@pytest.mark.parametrize(
    "blocks",
    [4096, GROUP - 1, GROUP, GROUP + 1, GROUP + 1500, 2 * GROUP + 40, 9 * GROUP + 7, 17 * GROUP + 5_000, 81 * GROUP],
)
def test_sizes(blocks: int, profile: str, tmp_path: Path) -> None:
    """File systems of every size are clean: at the bounds of groups, and with a last group that is not worth having."""
    tree = make_tree((b"a", file(3 * BLOCK)), (b"b", file(0)), (b"c", file(30 * BLOCK + 1)))
    check(lay_out(tree, blocks, PROFILES[profile]), tmp_path / "image", blocks)


@pytest.mark.parametrize("profile", sorted(PROFILES))
def test_random_rows(profile: str, tmp_path: Path) -> None:
    """Trees of random rows are clean in every profile, with files over several groups and their backups."""
    chance = random.Random(profile)
    blocks = 4 * GROUP + chance.randrange(GROUP)
    rows = []
    for number in range(chance.randrange(1, 400)):
        size = int(2 ** chance.uniform(0, 24)) if chance.random() < 0.99 else chance.randrange(100 << 20)
        runs = None
        if chance.random() < 0.1:
            size = chance.randrange(1, 1 << 42 if profile.startswith("ext4") else 1 << 40)
            places = sorted(chance.sample(range(-(-size // BLOCK)), min(chance.randrange(1, 200), size // BLOCK + 1)))
            runs = tuple((place, 1) for place in places)
        value = chance.randbytes(chance.randrange(1, 900))
        xattrs = (Attribute(1, b"name", value),) if chance.random() < 0.3 else ()
        rows.append((b"%d" % number * chance.randrange(1, 60), file(size, runs=runs, xattrs=xattrs)))
    layout = lay_out(make_tree(*sorted({name[:255]: row for name, row in rows}.items())), blocks, PROFILES[profile])
    check(layout, tmp_path / "image", blocks)


def test_huge_file(tmp_path: Path) -> None:
    """A file of 6 GiB is cut by the copies of the superblock, and by the longest extent."""
    blocks = 60 * GROUP
    for profile in (EXT4, EXT3):
        layout = lay_out(make_tree((b"huge", file(6 << 30))), blocks, profile)
        image = check(layout, tmp_path / profile.name, blocks)
        assert "Size: 6442450944" in debugfs(image, "stat /huge")


def test_fits_to_the_block(tmp_path: Path) -> None:
    """A tree that needs every block comes in, and one block more is refused with the size that it needs."""
    blocks = 2 * GROUP
    free = sum(count for _, count in lay_out(make_tree((b"a", file(0))), blocks).unused)
    layout = lay_out(make_tree((b"a", file(free * BLOCK))), blocks)
    assert layout.unused == []
    check(layout, tmp_path / "full", blocks)
    with pytest.raises(NoRoomError) as caught:
        lay_out(make_tree((b"a", file(free * BLOCK + 1))), blocks)
    assert caught.value.needed == (blocks + 1) * BLOCK


def test_too_many_fragments() -> None:
    """Map blocks that find no place are counted, too."""
    blocks = 4096
    runs = tuple((2 * place, 1) for place in range(2_000))
    free = sum(count for _, count in lay_out(make_tree((b"a", file(0)), (b"b", file(0))), blocks).unused)
    sparse = file(4_000 * BLOCK, runs=runs)
    lay_out(make_tree((b"a", sparse), (b"b", file((free - 2_007) * BLOCK))), blocks)
    with pytest.raises(NoRoomError):
        lay_out(make_tree((b"a", sparse), (b"b", file((free - 2_006) * BLOCK))), blocks)


def test_too_small() -> None:
    """Less than 16 MiB are refused."""
    with pytest.raises(NoRoomError):
        lay_out(make_tree(), 4095)


def test_inodes_exactly_full(tmp_path: Path) -> None:
    """More files than the usual number of inodes get more of them; more than all groups can have are refused."""
    blocks = 4096
    names = [(b"%05d" % number, file(0)) for number in range(9_000)]
    layout = lay_out(make_tree(*names), blocks)
    assert layout.geometry.inodes >= 9_012
    check(layout, tmp_path / "image", blocks)
    with pytest.raises(NoRoomError) as caught:
        make_geometry(EXT4, blocks, 32_769)
    assert caught.value.inodes


@pytest.mark.parametrize("profile", ["ext4", "ext3", "ext2"])
def test_room_that_is_asked_for(profile: str) -> None:
    """Each refusal asks for more room than there was, and a few of them lead to the size that is enough."""
    chance = random.Random(7)
    tree = make_tree(*((b"%03d" % number, file(chance.randrange(200_000))) for number in range(300)))
    asked = [4096]
    for _ in range(8):
        try:
            lay_out(tree, asked[-1], PROFILES[profile])
        except NoRoomError as error:
            asked.append(error.needed // BLOCK)
    assert asked == sorted(set(asked))
    lay_out(tree, asked[-1], PROFILES[profile])


@pytest.mark.parametrize(
    ("profile", "most"), [("ext3", (1024**3 + 1024**2 + 1024 + 12) * BLOCK), ("ext4", 2**44 - BLOCK)]
)
def test_largest_file(profile: str, most: int, tmp_path: Path) -> None:
    """A file with holes may be as large as the kind of file system can have it, and no larger."""
    layout = lay_out(make_tree((b"a", file(most, runs=((0, 1),)))), 4096, PROFILES[profile])
    check(layout, tmp_path / "image", 4096)
    with pytest.raises(FileTooLargeError):
        lay_out(make_tree((b"a", file(most + 1, runs=((0, 1),)))), 4096, PROFILES[profile])


def test_hole_at_the_end(tmp_path: Path) -> None:
    """The last file may be a hole from end to end."""
    layout = lay_out(make_tree((b"a", file(9)), (b"b", file(9 * BLOCK, runs=()))), 4096)
    check(layout, tmp_path / "image", 4096)


def test_many_names(tmp_path: Path) -> None:
    """Long names make an index of two levels. debugfs lists all of them, and e2fsck finds no hash out of order."""
    blocks = 2 * GROUP
    chance = random.Random(5)
    names = sorted({chance.randbytes(252).replace(b"/", b"_").replace(b"\0", b"_") for _ in range(6_300)})
    layout = lay_out(make_tree(*((name, file(0)) for name in names)), blocks, PROFILES["ext4-csum"])
    assert layout.directory_size(ROOT) > 512
    image = check(layout, tmp_path / "image", blocks)
    assert debugfs(image, "ls -p /").count("\n/") + 1 >= len(names)


def test_many_subdirectories() -> None:
    """More subdirectories than links can be counted: ext4 says 1, as the kernel does, and ext3 is refused."""
    for profile, most in (("ext4", 65_000), ("ext3", 32_000)):
        for links, counted in ((most, most), (most + 1, 1)):
            tree = make_tree((b"a", file(0)))
            tree.links[ROOT] = links
            if profile == "ext3" and counted == 1:
                with pytest.raises(TooManyLinksError):
                    lay_out(tree, 4096, PROFILES[profile])
                continue
            layout = lay_out(tree, 4096, PROFILES[profile])
            table = layout.segments.kind.index(Kind.TABLE)
            root = Image(layout, IDENTITY).block(table, 0)[256:512]
            assert int.from_bytes(root[26:28], "little") == counted


def test_shared_attributes(tmp_path: Path) -> None:
    """1,024 inodes share one block of attributes, the next ones another."""
    blocks = 8192
    attribute = Attribute(1, b"long", b"v" * 300)
    tree = make_tree(*((b"%05d" % number, file(0, xattrs=(attribute,))) for number in range(1_030)))
    layout = lay_out(tree, blocks)
    assert [references for _, references, _ in layout.xattr_blocks] == [1024, 6]
    check(layout, tmp_path / "image", blocks)
    assert list(layout.segments.kind).count(Kind.XATTRS) == 2
