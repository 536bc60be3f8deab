"""The unpacked archive in an empty root and in a bare Debian."""

from __future__ import annotations

import logging
import random
import shutil
import signal
from typing import TYPE_CHECKING

import pytest

from config.dist.project import version
from dist.running import LIBRARY, TREE, cpu_seconds
from support.endpoints import SCRIPTS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from support.bare_roots import BareRoot
    from support.endpoints import Endpoint
    from support.keys import KeyRing

MIB = 1 << 20
KEYS = ("--cert", "/lab/user.pem", "--private-key", "/lab/user.key")
STATE = {"AMISTREAM_STATE_DIR": "/lab/state"}
OWNER = (*KEYS, "--ec2-cert", "/lab/ec2.pem", "--account", "123456789012", "--no-register", "--in-process")


@pytest.fixture(params=["empty", "debian"])
def root(request: pytest.FixtureRequest, key_ring: KeyRing) -> BareRoot:
    """Each of the bare systems, with a volume and the keys of a bundle's owner."""
    found: BareRoot = request.getfixturevalue(request.param)
    lab = found.path / "lab"
    shutil.rmtree(lab, ignore_errors=True)
    lab.mkdir()
    (lab / "volume.img").write_bytes(random.Random(1).randbytes(2 * MIB) + bytes(MIB))
    shutil.copy(key_ring.user.certificate, lab / "user.pem")
    shutil.copy(key_ring.user.key, lab / "user.key")
    shutil.copy(key_ring.ec2.certificate, lab / "ec2.pem")
    return found


def amistream(root: BareRoot, *words: str, environ: dict[str, str] | None = None, tree: str = TREE) -> str:
    done = root.run(f"{tree}/bin/amistream", *words, environ={**STATE, **(environ or {})})
    return done.stdout + done.stderr


def test_a_directory(root: BareRoot) -> None:
    """A bundle in a directory is made, found without fault, and restored; nothing is left in /tmp."""
    assert amistream(root, "--version") == f"amistream {version()}\n"
    amistream(root, "bundle", "/lab/volume.img", "--to", "/lab/out", *OWNER)
    amistream(root, "verify", "--deep", "/lab/out/image.manifest.xml", *KEYS)
    amistream(root, "unbundle", "/lab/out/image.manifest.xml", "/lab/again.img", *KEYS)
    assert (root.path / "lab/again.img").read_bytes() == (root.path / "lab/volume.img").read_bytes()
    assert root.in_tmp() == []


def test_s3_without_a_library_of_the_host(
    root: BareRoot, ministack: Endpoint, make_bucket: Callable[[Endpoint], str], s3: dict[str, str], tmp_path: Path
) -> None:
    """A bundle in S3, by a name of /etc/hosts, opens no library outside of the tree; verify and unbundle take it."""
    place = f"s3://{make_bucket(ministack)}/images/web"
    command = (f"{TREE}/bin/amistream", "bundle", "/lab/volume.img", "--to", place, *OWNER)
    opened = root.opened(tmp_path / "trace", *command, environ={**STATE, **s3})
    libraries = [path for path in opened if LIBRARY.search(path)]
    assert len(libraries) > 20
    assert [path for path in libraries if not path.startswith(TREE)] == []
    manifest = f"{place}/image.manifest.xml"
    amistream(root, "verify", "--deep", manifest, *KEYS, environ=s3)
    amistream(root, "unbundle", manifest, "/lab/again.img", *KEYS, environ=s3)
    assert (root.path / "lab/again.img").read_bytes() == (root.path / "lab/volume.img").read_bytes()
    assert root.in_tmp() == []


def test_a_killed_run_leaves_nothing_in_tmp(root: BareRoot) -> None:
    """After SIGKILL in the middle of a bundle /tmp is empty."""
    with (root.path / "lab/volume.img").open("r+b") as file:
        file.truncate(9 << 30)
    process = root.start(
        f"{TREE}/bin/amistream", "bundle", "/lab/volume.img", "--to", "/lab/out", *OWNER, environ=STATE
    )
    assert process.stdout is not None
    while not list((root.path / "lab").glob("out/*")):
        assert process.poll() is None, process.stdout.read()
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert root.in_tmp() == []


def test_another_place(root: BareRoot) -> None:
    """The tree works after it was moved, and through a link from elsewhere."""
    moved = "/lab/a place/of amistream"
    (root.path / moved[1:]).parent.mkdir()
    shutil.move(root.path / TREE[1:], root.path / moved[1:])
    try:
        amistream(root, "bundle", "/lab/volume.img", "--to", "/lab/out", *OWNER, tree=moved)
        (root.path / "lab/amistream").symlink_to(f"{moved}/bin/amistream")
        assert root.run("/lab/amistream", "--version").stdout == f"amistream {version()}\n"
    finally:
        shutil.move(root.path / moved[1:], root.path / TREE[1:])


def test_init_names_the_daemon_of_the_tree(empty: BareRoot) -> None:
    """The unit that `init` writes starts the daemon of the tree, and the settings come from its template."""
    try:
        empty.run(f"{TREE}/bin/amistream", "init", "--system", environ=STATE, status=None)
        unit = (empty.path / "etc/systemd/system/amistream.service").read_text()
        assert f"ExecStart={TREE}/bin/amistreamd\n" in unit
        assert (empty.path / "etc/amistream/amistream.toml").exists()
    finally:
        for name in ("amistream", "systemd"):
            shutil.rmtree(empty.path / "etc" / name, ignore_errors=True)


def test_start_up(empty: BareRoot) -> None:
    """The start takes at most 1.2 times the CPU time of the same in a virtual environment."""
    ours, theirs = [], []
    for _ in range(9):
        ours.append(cpu_seconds(str(empty.path / TREE[1:] / "bin/amistream"), "--version"))
        theirs.append(cpu_seconds(str(SCRIPTS / "amistream"), "--version"))
    logging.getLogger(__name__).info("tree %.3f s, virtual environment %.3f s", min(ours), min(theirs))
    assert min(ours) <= 1.2 * min(theirs)
