"""The commands by which GRUB starts the system in a file system."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import UUID

import pytest

from amistream.source.disks.boot_config import boot_config
from amistream.source.disks.files import Files, Kind, Node

FILE_SYSTEM = UUID("0a1b2c3d-0000-4000-8000-00000000a315")
PARTITION = "a315-01"
SEARCH = f"search --no-floppy --fs-uuid --set=root {FILE_SYSTEM}\n"
OPTIONS = "ro console=tty0 console=ttyS0"


class Listed:
    """A file system with these empty files."""

    root = 0

    def __init__(self, *paths: str) -> None:
        self._children: list[dict[str, int] | None] = [{}]
        for path in paths:
            here = 0
            *folders, name = path.strip("/").split("/")
            for folder in folders:
                here = self._add(here, folder, {})
            self._add(here, name, None)

    def _add(self, parent: int, name: str, content: dict[str, int] | None) -> int:
        children = self._children[parent]
        assert children is not None
        if name not in children:
            children[name] = len(self._children)
            self._children.append(content)
        return children[name]

    def node(self, number: int) -> Node:
        kind = Kind.FILE if self._children[number] is None else Kind.DIRECTORY
        return Node(number=number, kind=kind, size=0, has_attributes=False)

    def entries(self, directory: Node) -> Iterator[tuple[str, int]]:
        yield from (self._children[directory.number] or {}).items()

    def content(self, file: Node, offset: int, length: int) -> bytes:
        raise AssertionError((file, offset, length))


def config(*paths: str) -> str | None:
    return boot_config(Files(Listed(*paths)), FILE_SYSTEM, PARTITION)


def started(kernel: str, root: str = f"UUID={FILE_SYSTEM}", initramfs: str = "") -> str:
    load = f"initrd /boot/{initramfs}\n" if initramfs else ""
    return f"linux /boot/{kernel} root={root} {OPTIONS}\n{load}boot\n"


@pytest.mark.parametrize(
    ("kernel", "initramfs"),
    [
        ("vmlinuz-6.1.0-56-cloud-amd64", "initrd.img-6.1.0-56-cloud-amd64"),
        ("vmlinuz-5.14.0-427.el9.x86_64", "initramfs-5.14.0-427.el9.x86_64.img"),
        ("vmlinuz-6.4.0-150600-default", "initrd-6.4.0-150600-default"),
    ],
)
def test_a_kernel_with_its_initramfs(kernel: str, initramfs: str) -> None:
    """Debian's, Fedora's and SUSE's names are found; the root is named by the file system's UUID."""
    expected = SEARCH + "set prefix=($root)/boot/grub\n" + started(kernel, initramfs=initramfs)
    assert config(f"/boot/{kernel}", f"/boot/{initramfs}", "/boot/System.map-6.1") == expected


def test_a_kernel_alone() -> None:
    """A kernel without an initramfs knows partitions only."""
    found = config("/boot/vmlinuz-6.1", "/boot/initrd.img-6.0")
    assert found is not None
    assert found.endswith(started("vmlinuz-6.1", f"PARTUUID={PARTITION}"))


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        ("6.9.0-1-amd64", "6.10.0-1-amd64"),
        ("6.1.0-9-amd64", "6.1.0-56-amd64"),
        ("6.1~rc1", "6.1"),
        ("6.1", "6.1-5"),
        ("4.18.0-553.el8.x86_64", "4.18.0-553.22.1.el8.x86_64"),
    ],
)
def test_the_newest_kernel(older: str, newer: str) -> None:
    """Versions compare by their numbers."""
    for order in ((older, newer), (newer, older)):
        found = config(*(f"/boot/vmlinuz-{version}" for version in order))
        assert found is not None
        assert f"linux /boot/vmlinuz-{newer} " in found


@pytest.mark.parametrize("folder", ["/boot/grub", "/boot/grub2"])
def test_a_menu(folder: str) -> None:
    """The system's own menu comes first, with its folder as prefix; the kernel is for when it starts nothing."""
    lines = f"{SEARCH}set prefix=($root){folder}\nconfigfile ($root){folder}/grub.cfg\n"
    assert config(f"{folder}/grub.cfg") == lines
    found = config(f"{folder}/grub.cfg", "/boot/vmlinuz-6.1", "/boot/initrd.img-6.1")
    assert found == lines + started("vmlinuz-6.1", initramfs="initrd.img-6.1")


@pytest.mark.parametrize(
    "paths",
    [
        (),
        ("/etc/fstab",),
        ("/boot/initrd.img-6.1", "/boot/config-6.1"),
        ("/boot/vmlinuz-0-rescue-1234", "/boot/vmlinuz-6.1; halt", "/boot/vmlinuz-6.1\nhalt", "/boot/vmlinuz-$root"),
        ("/boot/vmlinuz-6.1/file",),
    ],
)
def test_nothing_to_start(paths: tuple[str, ...]) -> None:
    """Without a menu, rescue kernels, names that GRUB would interpret, and directories start nothing."""
    assert config(*paths) is None
