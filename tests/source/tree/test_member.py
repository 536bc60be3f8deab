"""A tree is read for a member of the socket's group: nothing that is closed to him comes in, whoever moves what."""

from __future__ import annotations

import json
import os
import socket
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from amistream.errors import RefusedError
from amistream.member import Member
from amistream.source.tree.report import Fate
from source.access_lists import access_list
from source.tree.images import MIB, content_of, debugfs, is_clean, names_in, opened, write_image
from support.mounts import mounted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from amistream.source.tree.volume import TreeVolume

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root owns files of others")

USER, GROUP, OTHER = 65533, 65532, 65531
MEMBER = Member(user=USER, group=GROUP)
MARKER = b"Xq7Zkw" * 20
ALWAYS = "always, for members of the socket's group: "


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return make_tree(tmp_path / "tree")


def make_tree(root: Path) -> Path:
    """Make a tree of the member's own, with open files."""
    (root / "folder" / "below").mkdir(parents=True)
    for name in ("a", "b", "folder/a", "folder/below/a"):
        (root / name).write_bytes(name.encode() * 3000)
    for path in (root, *root.rglob("*")):
        os.chown(path, USER, GROUP)
    return root


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    return make_outside(tmp_path / "outside")


def make_outside(folder: Path) -> Path:
    """Make a directory of root's, on the same file system, that is closed to the member."""
    (folder / "below").mkdir(parents=True)
    for name in ("a", "b", "below/a"):
        secret(folder / name)
    folder.chmod(0o700)
    return folder


def secret(path: Path, mode: int = 0o600, *, owner: tuple[int, int] = (0, 0)) -> Path:
    path.write_bytes(MARKER * 100)
    os.setxattr(path, "user.secret", MARKER)
    os.chown(path, *owner)
    path.chmod(mode)
    return path


@contextmanager
def opened_for_member(tree: Path, **wishes: Any) -> Iterator[TreeVolume]:
    with opened(tree, member=MEMBER, **wishes) as volume:
        yield volume


def image_of(volume: TreeVolume, tree: Path) -> Path:
    """Write the image; it is sound, and holds no byte that is closed to the member."""
    image = write_image(volume, tree.parent / "image")
    assert is_clean(image)
    assert MARKER[:6] not in image.read_bytes()
    return image


def everything(volume: TreeVolume) -> bytes:
    found = bytearray()
    for extent in volume.extents():
        buffer = bytearray(extent.length)
        volume.read_into(extent.offset, memoryview(buffer))
        found += buffer
    return bytes(found)


class Countdown:
    """Does something at one step of many."""

    def __init__(self) -> None:
        self.begun = False
        """The step has not come yet."""

    def begin(self, steps: int, then: Callable[[], object]) -> None:
        self._left, self._then, self.begun = steps, then, True

    def take(self) -> None:
        if not self.begun:
            return
        self._left -= 1
        if self._left < 0:
            self.begun = False
            self._then()


def left_out(volume: TreeVolume) -> dict[str, str]:
    lines = map(json.loads, volume.report.lines())
    return {each["path"]: each["why"].removeprefix(ALWAYS) for each in lines if each["fate"] == Fate.LEFT_OUT}


def test_everything_that_is_closed(tree: Path, outside: Path) -> None:
    """Files and directories of others, devices and hard links stay out by rule; a link stays a link."""
    secret(tree / "root")
    secret(tree / "other", 0o640, owner=(OTHER, OTHER))
    secret(tree / "denied to a group", 0o604, owner=(OTHER, OTHER))
    secret(tree / "mine, but closed", 0o200, owner=(USER, GROUP))
    for name, mode in (("listed only", 0o644), ("searched only", 0o711), ("closed", 0o700)):
        (tree / name).mkdir()
        secret(tree / name / "inside", 0o644)
        os.setxattr(tree / name, "user.secret", MARKER)
        (tree / name).chmod(mode)
    (tree / "hard link").hardlink_to(outside / "a")
    (tree / "list").write_bytes(MARKER)
    os.setxattr(tree / "list", "system.posix_acl_access", access_list(denied=USER))
    os.mknod(tree / "disk", 0o060666, os.makedev(7, 0))
    os.mknod(tree / "zero", 0o020666, os.makedev(1, 5))
    kept = {"a", "b", "folder", "link", "pipe", "socket", "group", "all", "mine", "setuid"}
    (tree / "link").symlink_to("../outside/a")
    os.mkfifo(tree / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tree / "socket"))
    for name, mode, owner in (
        ("group", 0o640, (0, GROUP)),
        ("all", 0o644, (OTHER, OTHER)),
        ("mine", 0o400, (USER, OTHER)),
        ("setuid", 0o4755, (0, 0)),
    ):
        (tree / name).write_text(name)
        os.chown(tree / name, *owner)
        (tree / name).chmod(mode)
    os.setxattr(tree / "all", "trusted.secret", MARKER)
    with opened_for_member(tree) as volume:
        image = image_of(volume, tree)
        assert left_out(volume) == dict.fromkeys(("/disk", "/zero"), "a device")
        closed = {"root", "other", "denied to a group", "mine, but closed", "hard link", "list"}
        closed |= {"listed only", "searched only", "closed"}
        assert {path.decode() for path in volume.report.paths(Fate.CLOSED)} == closed
    assert names_in(image) == kept
    assert {name: content_of(image, name) for name in ("group", "all", "mine", "setuid")} == {
        name: name.encode() for name in ("group", "all", "mine", "setuid")
    }
    assert 'Fast link dest: "../outside/a"' in debugfs(image, "stat link")
    assert "Mode:  04755" in debugfs(image, "stat setuid")


def test_include_opens_nothing(tree: Path) -> None:
    """No option of the member takes in what is closed to him."""
    secret(tree / "secret")
    (tree / "etc").mkdir()
    secret(tree / "etc/machine-id")
    secret(tree / "etc/fstab")
    wishes = {"include": ["*"], "clean": ["identity"], "allow_unreadable": True, "mend_fstab": True}
    with opened_for_member(tree, **wishes) as volume:
        image = image_of(volume, tree)
        assert volume.report.paths(Fate.CLOSED) == [b"etc/fstab", b"etc/machine-id", b"secret"]
    assert "secret" not in names_in(image)
    assert names_in(image, "/etc") == {"fstab"}


def exchange(one: Path, other: Path) -> None:
    kept = one.with_name("kept")
    one.rename(kept)
    other.rename(one)
    kept.rename(other)


def replace_by_link(path: Path, target: Path) -> None:
    path.rename(path.with_name("moved"))
    path.symlink_to(target)


def replace_by_hard_link(path: Path, target: Path) -> None:
    path.unlink()
    path.hardlink_to(target)


def close_file(path: Path) -> None:
    """Close a file to the member; what comes into it afterwards is not for him."""
    path.chmod(0)
    path.write_bytes(MARKER)
    os.setxattr(path, "user.secret", MARKER)


def close_folder(folder: Path) -> None:
    os.chown(folder, 0, 0)
    folder.chmod(0o700)
    (folder / "a").write_bytes(MARKER)
    (folder / os.fsdecode(MARKER)).touch()
    os.setxattr(folder, "user.secret", MARKER)


MOVES: dict[str, Callable[[Path, Path], object]] = {
    "link for a file": lambda tree, outside: replace_by_link(tree / "folder/a", outside / "a"),
    "hard link for a file": lambda tree, outside: replace_by_hard_link(tree / "folder/a", outside / "a"),
    "link for a directory": lambda tree, outside: replace_by_link(tree / "folder", outside),
    "link for a directory below": lambda tree, outside: replace_by_link(tree / "folder/below", outside / "below"),
    "another directory": lambda tree, outside: exchange(tree / "folder", outside),
    "closed file": lambda tree, _: close_file(tree / "folder/a"),
    "closed directory": lambda tree, _: close_folder(tree / "folder"),
}


@pytest.mark.parametrize("move", MOVES)
def test_moved_between_the_passes(tree: Path, outside: Path, move: str) -> None:
    """A file that another one replaced, or that was closed after the walk, is zeros in the image, and is reported."""
    with opened_for_member(tree) as volume:
        MOVES[move](tree, outside)
        image = image_of(volume, tree)
        gone = volume.report.paths(Fate.GONE)
        assert gone
        for path in gone:
            assert content_of(image, path.decode()).strip(b"\0") == b""
    assert content_of(image, "/b") == b"b" * 3000


@pytest.mark.parametrize("move", MOVES)
def test_moved_at_any_moment(tmp_path: Path, move: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before whichever opening of the walk and the reading a name leads to something else: nothing of it comes in."""
    really_open = os.open
    steps = Countdown()

    def open_later(*given: Any, **named: Any) -> int:
        steps.take()
        return really_open(*given, **named)

    monkeypatch.setattr(os, "open", open_later)
    for number in range(1000):
        tree, outside = make_tree(tmp_path / f"{number}/tree"), make_outside(tmp_path / f"{number}/outside")
        steps.begin(number, lambda: MOVES[move](tree, outside))  # noqa: B023 - called in this turn
        with opened_for_member(tree, size=16 * MIB, profile="ext2") as volume:
            found = everything(volume) + "".join(volume.report.lines()).encode()
        assert MARKER[:6] not in found
        if steps.begun:  # the last step was before
            break
    assert number > 20


def test_mounts(tree: Path, outside: Path) -> None:
    """A file or file system that is mounted in the tree stays out."""
    (outside / "a").chmod(0o644)
    (outside / "a").write_bytes(MARKER)
    with mounted(outside / "a", tree / "a", "--bind"), opened_for_member(tree) as volume:
        image_of(volume, tree)
        assert left_out(volume) == {"/a": "another file is mounted there"}


@pytest.mark.parametrize("path", ["/proc/self", "/proc/1", "/proc/self/task", "/sys/kernel"])
def test_files_of_the_kernel(path: str) -> None:
    """Nothing that the kernel makes up comes in: a link in /proc tells the daemon of other processes' directories."""
    with pytest.raises(RefusedError) as caught, opened(Path(path), member=MEMBER):
        pass
    assert caught.value.code == "source.closed"
