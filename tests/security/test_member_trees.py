"""The daemon as root bundles directories for a member of its group: what is closed to him stays out."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from security.people import MEMBER_ID, ROOT, Machine, amistream_as, machine, needs_root, some_group
from security.swapping import EXCHANGE, swapping
from source.tree.images import content_of, is_clean, names_in

if TYPE_CHECKING:
    from support.keys import KeyRing

pytestmark = needs_root

MARKER = b"Xq7Zkw" * 50
SIZE = "32MiB"


@pytest.fixture(scope="module")
def place(key_ring: KeyRing) -> Iterator[Machine]:
    with machine(key_ring, log_level="warning") as running:
        yield running


@pytest.fixture
def tree(place: Machine) -> Iterator[Path]:
    """Make a member's system: his own files, and what others made in it."""
    root = place.root / "tree"
    (root / "etc").mkdir(parents=True)
    (root / "etc/hostname").write_text("web\n")
    (root / "etc/shadow").write_text("hidden from the group\n")
    (root / "etc/shadow").chmod(0o600)
    (root / "boot").mkdir()
    for path in (root, *root.rglob("*")):
        os.chown(path, MEMBER_ID, MEMBER_ID)
    yield root
    shutil.rmtree(root)


def job_of(place: Machine, tree: Path, **changes: Any) -> dict[str, Any]:
    return place.submit_one(source=str(tree), size=SIZE, **{"destinations": [str(place.root / "out")], **changes})


def unbundled(place: Machine, to: Path) -> Path:
    """Unbundle what the member's job has made, and remove it."""
    manifest, key = place.root / "out/image.manifest.xml", place.root / "key.pem"
    done = amistream_as(0, "unbundle", manifest, to, "--private-key", key)
    assert done.returncode == 0, done.stderr
    shutil.rmtree(place.root / "out")
    assert MARKER[:6] not in to.read_bytes()
    assert is_clean(to)
    return to


def test_a_member_bundles_his_tree(place: Machine, tree: Path, tmp_path: Path) -> None:
    """His files come in, also those for him alone; others' closed ones, devices and links' targets do not."""
    for name, mode in (("root's", 0o600), ("etc/linked", 0o000)):
        (place.outside / "closed").unlink(missing_ok=True)
        (place.outside / "closed").write_bytes(MARKER)
        (place.outside / "closed").chmod(mode)
        (tree / name).hardlink_to(place.outside / "closed")
    (tree / "closed").mkdir(mode=0o700)
    (tree / "closed/file").write_bytes(MARKER)
    (tree / "passwords").symlink_to("/etc/shadow")
    os.mknod(tree / "disk", 0o060666, os.makedev(7, 0))
    (tree / "of the group").write_text("shared")
    shutil.chown(tree / "of the group", "root", some_group().gr_name)
    (tree / "of the group").chmod(0o640)
    job = job_of(place, tree)
    assert job["state"] == "done", job
    (notice,) = [each for each in job["notices"] if "left out" in each]
    assert "left out: 1 by always, for members of the socket's group: a device; " in notice
    assert "3 files (/closed, /etc/linked, /root's): closed to the member" in notice
    assert "--report" not in notice
    image = unbundled(place, tmp_path / "image")
    assert names_in(image) == {"etc", "boot", "passwords", "of the group"}
    assert names_in(image, "/etc") == {"hostname", "shadow"}
    assert content_of(image, "/etc/shadow") == b"hidden from the group\n"


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"script": "/bin/true"}, "access.script"),
        ({"overlay": "/etc"}, "access.overlay"),
        ({"fstab": "/etc/shadow"}, "access.fstab"),
        ({"grub_config": "/etc/shadow"}, "access.grub_config"),
        ({"report": "/etc/report"}, "access.report"),
        ({"all_file_systems": True}, "access.all_file_systems"),
        ({"file_system": "xfs"}, "access.file_system"),
    ],
    ids=str,
)
def test_options_that_are_roots(place: Machine, tree: Path, fields: dict[str, object], code: str) -> None:
    """An option by which the daemon would read, write or run something else for him is refused at once."""
    (answer,) = place.submit([place.request(source=str(tree), **fields)])
    error = answer["body"]["error"]
    assert (answer["status"], error["code"], error["field"]) == (403, code, next(iter(fields)))
    assert error["hint"]


def test_no_boot_area_of_a_disk(place: Machine, tree: Path) -> None:
    """Nobody but root gets what is on the disk besides the files of the tree."""
    job = job_of(place, tree, partition="clone")
    assert (job["state"], job["error"]["code"]) == ("refused", "partition.clone")
    assert "nothing else of the disk" in job["error"]["message"]


def test_trees_that_he_could_not_enter(place: Machine, tree: Path) -> None:
    """A tree outside of the roots, or behind a directory that is closed to him, is refused, by any path."""
    (tree / "link").symlink_to(place.outside)
    for path in (place.outside, tree / "link", tree / ".." / ".." / "outside", Path("/"), Path("/proc/self/root")):
        job = job_of(place, path)
        assert (job["state"], job["error"]["code"]) == ("refused", "roots.outside"), path
    (tree / "closed/open").mkdir(parents=True)
    (tree / "closed").chmod(0o700)
    (tree / "unlisted").mkdir(mode=0o711)
    for path in (tree / "closed", tree / "closed/open", tree / "unlisted"):
        job = job_of(place, path)
        assert (job["state"], job["error"]["code"], job["error"]["field"]) == ("refused", "source.closed", "source")
    assert not (place.root / "out").exists()


def test_doctor_reads_no_more(place: Machine, tree: Path) -> None:
    """The checks of a member's `doctor` walk a tree with his rights, as his job would."""
    (tree / "root's").write_bytes(MARKER)
    (tree / "root's").chmod(0o600)
    words = ("--cert", place.root / "cert.pem", "--private-key", place.root / "key.pem", "--account", "123456789012",
             "--ec2-cert", place.root / "cert-ec2.pem", "--to", place.root / "doctor", "--size", SIZE)  # fmt: skip
    done = amistream_as(MEMBER_ID, "doctor", tree, *words, "--socket", place.daemon.socket, "--json")
    found = [each for each in json.loads(done.stdout) if each["name"] == "source"]
    assert "1 file (/root's): closed to the member of the socket's group" in found[0]["found"], found
    assert "gets no boot area: amistream cannot take over the boot area of the disk" in found[1]["found"]
    assert "nothing else of the disk and cannot make a disk" in found[1]["found"]


def test_directories_that_are_swapped(place: Machine, tree: Path, tmp_path: Path) -> None:
    """While a directory is exchanged with one of root's in a loop, his bundles hold nothing of root's."""
    (tree / "a").mkdir()
    closed = place.root / "closed"
    closed.mkdir(mode=0o700)
    for number in range(40):
        (tree / f"a/{number}").write_bytes(b"open")
        (closed / f"{number}").write_bytes(MARKER)
    with swapping(EXCHANGE, tree / "a", closed):
        for number in range(2):
            job = job_of(place, tree)
            assert job["state"] == "done", job
            unbundled(place, tmp_path / f"image{number}")
    shutil.rmtree(closed)


def test_root_still_bundles_all(place: Machine, tree: Path) -> None:
    """A job of root's in the same roots has every file."""
    (tree / "root's").write_bytes(b"for root")
    (tree / "root's").chmod(0o600)
    (answer,) = place.submit(
        [place.request(source=str(tree), size=SIZE, destinations=[str(place.root / "by root")])], ROOT
    )
    assert answer["body"]["state"] == "done", answer
    assert not [each for each in answer["body"]["notices"] if "left out" in each]
