"""The categories of --clean: an image without what belongs to one machine, and without logs and caches."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import pytest

from amistream.checks.boot.of_request import examine_volume
from amistream.checks.boot.wanted import Wanted
from amistream.request import Category
from amistream.source.tree.categories import BY_DEFAULT, CATEGORIES, IDENTITY
from amistream.source.tree.report import MOVED, Fate
from source.nobody import as_nobody, open_folder
from source.tree.images import content_of, debugfs, is_clean, names_in, opened, write_image

ALL = tuple(CATEGORIES)
ID = "0123456789abcdef0123456789abcdef"


def fill(root: Path, *paths: str) -> None:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text("x")


@pytest.fixture
def system(tree: Path) -> Path:
    """A system that has run for a while."""
    fill(
        tree,
        *("etc/machine-id", "var/lib/dbus/machine-id", "etc/ssh/ssh_host_rsa_key", "etc/ssh/ssh_host_rsa_key.pub"),
        *("etc/ssh/ssh_host_key", "etc/ssh/sshd_config", "etc/udev/rules.d/70-persistent-net.rules", "etc/hostname"),
        *("var/lib/cloud/instances/i-1/sem/x", "var/lib/cloud/data/previous-hostname", "var/lib/cloud/sem/x"),
        *("var/lib/cloud/seed/nocloud/user-data", "var/lib/systemd/random-seed", "var/lib/dhcp/dhclient.eth0.leases"),
        *("var/lib/NetworkManager/internal-1-eth0.lease", "var/lib/NetworkManager/NetworkManager.state"),
        *("var/log/syslog", "var/log/nginx/access.log", "var/log/wtmp", "var/log/btmp", f"var/log/journal/{ID}/a"),
        *("var/cache/apt/archives/x.deb", "var/cache/apt/archives/partial/y", "var/cache/debconf/config.dat"),
        *("root/.cache/pip/http/a", "root/.cache/other", "var/lib/dpkg/status", "srv/var/log/kept"),
        *("root/.ssh/authorized_keys", "root/.bash_history"),
    )
    (tree / "etc/machine-id").write_text(ID)
    (tree / "var/lib/cloud/instance").symlink_to("instances/i-1")
    (tree / "var/log/app").symlink_to("/data/log")
    (tree / "etc/machine-id").chmod(0o444)
    (tree / "var/log/btmp").chmod(0o660)
    (tree / "var/log/nginx").chmod(0o750)
    return tree


def cleaned(tree: Path, category: str) -> set[str]:
    """The paths that one category leaves out or empties; the report names it for each."""
    with opened(tree, clean=[category]) as volume:
        report = volume.report
        fates = (Fate.LEFT_OUT, Fate.EMPTIED)
        assert {rule for fate in fates for rule in report.reasons(fate)} == {f"--clean {category}"}
        assert report.paths(*Fate) == report.paths(*fates)
        return {path.decode() for path in report.paths(*fates)}


def test_each_category(system: Path) -> None:
    """Each category leaves out its own files, and nothing else."""
    assert {category: cleaned(system, category) for category in ALL} == {
        "secrets": {"root/.ssh/authorized_keys"},
        "history": {"root/.bash_history"},
        "identity": {
            *("etc/machine-id", "var/lib/dbus/machine-id", "etc/udev/rules.d/70-persistent-net.rules"),
            *("etc/ssh/ssh_host_rsa_key", "etc/ssh/ssh_host_rsa_key.pub", "etc/ssh/ssh_host_key"),
            *(f"var/lib/cloud/{name}" for name in ("instance", "instances", "data", "sem")),
            *("var/lib/systemd/random-seed", "var/lib/dhcp/dhclient.eth0.leases"),
            "var/lib/NetworkManager/internal-1-eth0.lease",
        },
        "logs": {
            *("var/log/syslog", "var/log/nginx/access.log", "var/log/wtmp", "var/log/btmp"),
            f"var/log/journal/{ID}",
        },
        "caches": {
            *("var/cache/apt/archives/x.deb", "var/cache/apt/archives/partial/y", "root/.cache/pip/http/a"),
        },
    }


@pytest.mark.parametrize("profile", ["ext4", "ext2", "ext4-csum"])
def test_image(profile: str, system: Path, tmp_path: Path) -> None:
    """The machine-id is an empty file of its own mode; directories and links of logs and caches stay as they are."""
    with opened(system, profile=profile, clean=ALL) as volume:
        image = write_image(volume, tmp_path / "image")
        volume.check_unchanged()
        assert volume.report.paths(Fate.EMPTIED) == [b"etc/machine-id", b"var/log/btmp", b"var/log/wtmp"]
        assert not volume.report.paths(*MOVED)
    assert is_clean(image)
    assert ID.encode() not in image.read_bytes()
    assert names_in(image, "/etc") == {"machine-id", "ssh", "udev", "hostname"}
    assert is_empty(image, "/etc/machine-id", 0o444)
    assert is_empty(image, "/var/log/btmp", 0o660)
    assert names_in(image, "/var/log") == {"nginx", "wtmp", "btmp", "journal", "app"}
    assert "Mode:  0750" in debugfs(image, "stat /var/log/nginx")
    assert names_in(image, "/var/cache/apt/archives") == {"partial"}
    assert content_of(image, "/var/cache/debconf/config.dat") == b"x"
    assert (system / "etc/machine-id").read_text() == ID


def test_odd_machine_ids(system: Path, tmp_path: Path) -> None:
    """A link in its place becomes an empty file; further names of its inode stay; where there is none, none comes."""
    path = system / "etc/machine-id"
    os.link(path, system / "etc/after")
    os.link(path, system / "a-name")
    with opened(system, clean=[IDENTITY]) as volume:
        image = write_image(volume, tmp_path / "image")
    assert is_clean(image)
    assert is_empty(image, "/etc/machine-id", 0o444)
    assert content_of(image, "/a-name") == ID.encode()
    path.unlink()
    path.symlink_to("../var/lib/dbus/machine-id")
    with opened(system, clean=[IDENTITY]) as volume:
        image = write_image(volume, tmp_path / "image")
    assert is_clean(image)
    assert is_empty(image, "/etc/machine-id", 0o444)
    path.unlink()
    with opened(system, clean=[IDENTITY]) as volume:
        assert "machine-id" not in names_in(write_image(volume, tmp_path / "image"), "/etc")


def test_include_wins(system: Path, tmp_path: Path) -> None:
    """Files that are included come in whole, below directories that stay."""
    include = ["/etc/machine-id", "*.log", "/var/log/btmp", "*.deb", "/etc/ssh/*"]
    with opened(system, clean=ALL, include=include) as volume:
        image = write_image(volume, tmp_path / "image")
        assert volume.report.paths(Fate.EMPTIED) == [b"var/log/wtmp"]
    assert content_of(image, "/etc/machine-id") == ID.encode()
    assert names_in(image, "/etc/ssh") == {"ssh_host_rsa_key", "ssh_host_rsa_key.pub", "ssh_host_key", "sshd_config"}
    assert names_in(image, "/var/log/nginx") == {"access.log"}
    assert names_in(image, "/var/cache/apt/archives") == {"partial", "x.deb"}


def test_overlay(system: Path, tmp_path: Path) -> None:
    """A directory that is laid over the tree comes in whole, its machine-id and logs too."""
    fill(tmp_path / "over", "etc/machine-id", "var/log/given")
    with opened(system, clean=ALL, overlay=tmp_path / "over") as volume:
        image = write_image(volume, tmp_path / "image")
    assert content_of(image, "/etc/machine-id") == b"x"
    assert content_of(image, "/var/log/given") == b"x"


def test_unreadable_logs() -> None:
    """Files that are left out or emptied need not be readable."""
    if os.geteuid() != 0:
        pytest.skip("needs files of another user")
    with open_folder() as folder:
        fill(folder, "var/log/btmp", "var/log/secure")
        for name in ("btmp", "secure"):
            (folder / "var/log" / name).chmod(0o600)
        with as_nobody(), opened(folder, clean=[*BY_DEFAULT, "logs"]) as volume:
            assert volume.report.paths(Fate.EMPTIED, Fate.LEFT_OUT) == [b"var/log/btmp", b"var/log/secure"]


def test_boot_checks(system: Path) -> None:
    """The checks see the image: they find nothing of what its categories take away."""
    assert traces(system, ()) == {
        *("machine_id", "host_keys", "cloud_state", "leases"),
        *("logs", "authorized_keys", "histories"),
    }
    assert traces(system, [*BY_DEFAULT, IDENTITY]) == {"logs"}
    assert traces(system, ALL) == set()


def test_one_list() -> None:
    """A request takes the categories that there are."""
    assert get_args(Category) == ALL


def is_empty(image: Path, path: str, mode: int) -> bool:
    about = debugfs(image, f"stat {path}")
    assert "Type: regular" in about
    assert f"Mode:  {mode:04o}" in about
    assert "Size: 0\n" in about
    return True


def traces(tree: Path, clean: Sequence[str]) -> set[str]:
    """The codes of what the boot checks find of this machine."""
    with opened(tree, clean=clean) as volume:
        found = examine_volume(volume, Wanted())
    return {each.code.removeprefix("boot.identity.") for each in found if each.code.startswith("boot.identity.")}
