"""The life of the .deb in a bare Debian: install, a daemon, an upgrade with an unfinished job, removal, purge."""

from __future__ import annotations

import random
import re
import shlex
import shutil
import signal
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from config.dist.project import PREFIX, ROOT, version
from dist.running import NEXT, made, next_version
from support.buckets import list_keys

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from support.bare_roots import BareRoot
    from support.endpoints import Endpoint
    from support.keys import KeyRing

MIB = 1 << 20
UNIT = "usr/lib/systemd/system/amistream.service"
JOURNAL = "var/lib/amistream/journal.sqlite"
KEY = "var/lib/amistream/user-private-key.pem"


def test_life_of_the_package(
    debian: BareRoot,
    ministack: Endpoint,
    make_bucket: Callable[[Endpoint], str],
    s3: dict[str, str],
    key_ring: KeyRing,
    tmp_path: Path,
) -> None:
    """A job that the daemon of one version began is ended by that of the next; what a removal leaves, it names."""
    bucket = make_bucket(ministack)
    _install(debian, made(".deb"))
    assert debian.run("amistream", "--version").stdout == f"amistream {version()}\n"
    assert "amistream:" in (debian.path / "etc/passwd").read_text()
    assert "amistream:" in (debian.path / "etc/group").read_text()

    settings = debian.path / "etc/amistream/amistream.toml"
    assert settings.read_bytes() == (ROOT / "config/amistream.toml").read_bytes()
    settings.write_text('account = "123456789012"\nlimit_upload = "2MiB"\npart_size = "1MiB"\n')
    shutil.copy(key_ring.ec2.certificate, debian.path / "ec2.pem")
    (debian.path / "volume.img").write_bytes(random.Random(2).randbytes(24 * MIB))
    place = f"s3://{bucket}/kept"
    with _daemon(debian, s3) as daemon:
        words = ("bundle", "/volume.img", "--to", place, "--ec2-cert", "/ec2.pem", "--no-register", "--detach")
        job = debian.run("amistream", *words).stdout.split()[-1]
        while len(list_keys(ministack, bucket)) < 3:
            assert daemon.poll() is None
        daemon.send_signal(signal.SIGKILL)
        daemon.wait()
    stored = len(list_keys(ministack, bucket))
    assert stored < 24

    _install(debian, next_version(tmp_path))
    assert debian.run("amistream", "--version").stdout == f"amistream {NEXT}\n"
    assert "limit_upload" in settings.read_text()
    settings.write_text(settings.read_text().replace("2MiB", "1GiB"))
    with _daemon(debian, s3):
        debian.run("amistream", "watch", job)
        debian.run("amistream", "verify", "--deep", f"{place}/image.manifest.xml", environ=s3)

    removed = debian.run("dpkg", "--remove", "amistream").stdout
    for left in ("/var/lib/amistream stays", "/etc/amistream stays", "the user and group amistream stay"):
        assert left in removed
    assert not (debian.path / PREFIX[1:]).exists()
    assert not (debian.path / "usr/bin/amistream").is_symlink()
    assert (debian.path / JOURNAL).exists()

    for of_somebody in ("etc/amistream/ec2.pem", "var/lib/amistream/bundle"):
        (debian.path / of_somebody).write_text("not of the package")
    purged = debian.run("dpkg", "--purge", "amistream").stdout
    for left in ("/var/lib/amistream stays", "/etc/amistream stays"):
        assert left in purged
    assert not settings.exists()
    assert {path.name for path in settings.parent.iterdir()} == {"ec2.pem"}
    assert {path.name for path in (debian.path / KEY).parent.iterdir()} == {
        "bundle",
        "user-private-key.pem",
        "user-certificate.pem",
    }


def _install(root: BareRoot, package: Path) -> None:
    shutil.copy(package, root.path / "package.deb")
    root.run("dpkg", "--install", "/package.deb")


@contextmanager
def _daemon(root: BareRoot, environ: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """The daemon, started by the command line and the variables of its unit, in the directories that systemd makes."""
    unit = (root.path / UNIT).read_text()
    lines = dict(re.findall(r"^(ExecStart|Environment)=(.*)$", unit, re.MULTILINE))
    name, _, value = lines["Environment"].partition("=")
    state = root.path / "var/lib/amistream"
    state.mkdir(mode=0o700, exist_ok=True)
    (state / "tmp").mkdir(exist_ok=True)
    variables = {**environ, name: value.replace("%S", "/var/lib")}
    process = root.start(*shlex.split(lines["ExecStart"]), environ=variables)
    try:
        socket = root.path / "run/amistream/amistream.sock"
        while root.run("amistream", "jobs", status=None).returncode:
            assert process.poll() is None, process.stdout and process.stdout.read()
        assert socket.exists()
        yield process
    finally:
        process.terminate()
        process.communicate()
