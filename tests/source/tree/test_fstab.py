"""Another /etc/fstab in the image than in the tree: given, or made of the tree's own."""

from __future__ import annotations

import os
from pathlib import Path
from uuid import UUID

import pytest

from amistream.checks.boot.fstab import parse_fstab
from amistream.errors import RefusedError
from amistream.source.tree.fstab import UUID as PLACE
from amistream.source.tree.fstab import mended
from amistream.source.tree.report import Fate
from source.tree.images import content_of, debugfs, is_clean, names_in, opened, write_image

OLD = b"""# comment
UUID=00000000-0000-0000-0000-000000000001 / xfs noatime 0 0
LABEL=UEFI /boot/efi vfat umask=0077 0 1
/dev/xvdb\t/mnt\tauto\tdefaults,nofail,comment=cloudconfig\t0\t2
/dev/sdf /data ext4
none /proc proc defaults 0 0
/swapfile swap swap sw 0 0"""


@pytest.fixture
def system(tree: Path) -> Path:
    (tree / "etc").mkdir()
    (tree / "etc" / "fstab").write_bytes(OLD)
    (tree / "etc" / "fstab").chmod(0o640)
    os.setxattr(tree / "etc" / "fstab", "user.kept", b"1")
    (tree / "etc" / "other").write_text("other")
    return tree


def uuid_of(image: Path) -> UUID:
    return UUID(next(line.split()[-1] for line in debugfs(image, "stats").splitlines() if "Filesystem UUID" in line))


@pytest.mark.parametrize("profile", ["ext4", "ext2", "ext4-csum"])
def test_given(profile: str, system: Path, tmp_path: Path) -> None:
    """A given fstab is in the image, the tree's own stays beside it, and the tree is as it was."""
    with opened(system, profile=profile, fstab=b"new\n") as volume:
        image = write_image(volume, tmp_path / "image")
    assert is_clean(image)
    assert names_in(image, "/etc") == {"fstab", "fstab.old", "other"}
    assert content_of(image, "/etc/fstab") == b"new\n"
    assert content_of(image, "/etc/fstab.old") == OLD
    assert "Mode:  0640" in debugfs(image, "stat /etc/fstab")
    assert "user.kept" in debugfs(image, "ea_list /etc/fstab")
    assert (system / "etc" / "fstab").read_bytes() == OLD
    assert not (system / "etc" / "fstab.old").exists()


def test_generated(system: Path, tmp_path: Path) -> None:
    """The made one names the image's own UUID, and nothing else keeps the boot waiting."""
    with opened(system, mend_fstab=True) as volume:
        image = write_image(volume, tmp_path / "image")
    assert is_clean(image)
    made = parse_fstab(content_of(image, "/etc/fstab").decode())
    assert [(each.device, each.path, each.kind) for each in made] == [
        (f"UUID={uuid_of(image)}", "/", "ext4"),
        ("LABEL=UEFI", "/boot/efi", "vfat"),
        ("/dev/xvdb", "/mnt", "auto"),
        ("/dev/sdf", "/data", "ext4"),
        ("none", "/proc", "proc"),
        ("/swapfile", "swap", "swap"),
    ]
    assert {each.path for each in made if not each.is_optional} == {"/", "/proc"}
    assert made[0].options == {"defaults"}
    assert content_of(image, "/etc/fstab.old") == OLD


def test_generated_again(system: Path) -> None:
    """The same tree gives the same image; another fstab is another one."""
    digests = []
    for wishes in ({"mend_fstab": True}, {"mend_fstab": True}, {"fstab": b"a"}, {"fstab": b"b"}):
        with opened(system, **wishes) as volume:
            digests.append(volume.digest)
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3


def test_none_there(tree: Path, tmp_path: Path) -> None:
    """Without an fstab the image gets one with its root and the first disk of an instance store."""
    (tree / "etc").mkdir()
    with opened(tree, mend_fstab=True) as volume:
        image = write_image(volume, tmp_path / "image")
    assert names_in(image, "/etc") == {"fstab"}
    assert "Mode:  0644" in debugfs(image, "stat /etc/fstab")
    made = parse_fstab(content_of(image, "/etc/fstab").decode())
    assert [(each.path, each.is_optional) for each in made] == [("/", False), ("/mnt", True)]


def test_a_link_is_not_followed(system: Path, tmp_path: Path) -> None:
    """A link in the place of fstab gives way to a file, and nothing of its target comes in."""
    (tmp_path / "outside").write_text("/dev/secret /data ext4")
    (system / "etc" / "fstab").unlink()
    (system / "etc" / "fstab").symlink_to("../../outside")
    with opened(system, mend_fstab=True) as volume:
        image = write_image(volume, tmp_path / "image")
    assert is_clean(image)
    assert b"secret" not in content_of(image, "/etc/fstab")
    assert '"../../outside"' in debugfs(image, "stat /etc/fstab.old")


def test_left_out(system: Path, tmp_path: Path) -> None:
    """A rule that leaves fstab out holds for its contents, and a file of the earlier one's name is reported."""
    (system / "etc" / "fstab.old").write_text("older")
    with opened(system, fstab=b"new", exclude=["/etc/fstab"]) as volume:
        image = write_image(volume, tmp_path / "image")
        assert volume.report.paths(Fate.LEFT_OUT) == [b"etc/fstab", b"etc/fstab.old"]
    assert is_clean(image)
    assert names_in(image, "/etc") == {"fstab", "other"}
    assert content_of(image, "/etc/fstab") == b"new"


def test_no_place(tree: Path) -> None:
    """A directory without /etc is refused."""
    with pytest.raises(RefusedError, match="there is no") as caught, opened(tree, fstab=b"x"):
        pass
    assert caught.value.field == "fstab"


def test_menu(system: Path, tmp_path: Path) -> None:
    """A menu of GRUB comes in beside the earlier one; without its directory the job is refused."""
    with pytest.raises(RefusedError, match="cannot put /boot") as caught, opened(system, menu=b"new"):
        pass
    assert caught.value.field == "grub_config"
    (system / "boot/grub").mkdir(parents=True)
    (system / "boot/grub/menu.lst").write_text("old")
    with opened(system, menu=b"new", fstab=b"x") as volume:
        image = write_image(volume, tmp_path / "image")
    assert is_clean(image)
    assert content_of(image, "/boot/grub/menu.lst") == b"new"
    assert content_of(image, "/boot/grub/menu.lst.old") == b"old"
    assert content_of(image, "/etc/fstab") == b"x"


def test_too_large(system: Path) -> None:
    """An fstab that is none by its size is refused."""
    os.truncate(system / "etc" / "fstab", 2 << 20)
    with pytest.raises(RefusedError, match="fstab has more than"), opened(system, mend_fstab=True):
        pass


@pytest.mark.parametrize(
    ("old", "root"),
    [
        (b"/dev/sda1 / ext3 noatime,errors=remount-ro 1 1\n", b"noatime,errors=remount-ro"),
        (b"/dev/sda1 / btrfs subvol=@ 0 0\n", b"defaults"),
        (b"/dev/sda1 / ext3\n", b"defaults"),
        (b"", b"defaults"),
    ],
)
def test_root_options(old: bytes, root: bytes) -> None:
    """Options stay for a root of the same family, and end with another."""
    assert b"\nUUID=%s / ext4 %s 0 1\n" % (PLACE, root) in mended(old, "ext4")
