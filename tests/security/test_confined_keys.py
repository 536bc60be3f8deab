"""Keys and certificates that a confined job names, and how any key file is read."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from amistream.errors import RefusedError
from amistream.keys import load_certificate, load_identity
from amistream.roots import Roots
from security.swapping import LINK, attempts, swapping

if TYPE_CHECKING:
    from support.keys import KeyRing

ATTEMPTS = 300


@pytest.fixture
def inside(tmp_path: Path, key_ring: KeyRing) -> Path:
    """The one root, with the user's pair in it."""
    folder = tmp_path / "inside"
    folder.mkdir()
    shutil.copy(key_ring.user.certificate, folder / "cert.pem")
    shutil.copy(key_ring.user.key, folder / "key.pem")
    return folder


def test_a_pair_within_the_roots_is_loaded(inside: Path) -> None:
    """A confined job may name its own keys where it may name volumes."""
    load_identity(inside / "cert.pem", inside / "key.pem", Roots([inside]))


def test_a_pair_outside_is_refused(inside: Path, key_ring: KeyRing) -> None:
    """Each of the two has to lie within, and the error names the field of the one that does not."""
    for certificate, key, field in (
        (key_ring.user.certificate, inside / "key.pem", "certificate"),
        (inside / "cert.pem", key_ring.user.key, "private_key"),
    ):
        with pytest.raises(RefusedError) as caught:
            load_identity(certificate, key, Roots([inside]))
        assert (caught.value.code, caught.value.field) == ("roots.outside", field)


def test_a_certificate_outside_is_refused(inside: Path, key_ring: KeyRing) -> None:
    """EC2's certificate as well, if the job names one."""
    load_certificate(inside / "cert.pem", field="ec2_certificate", roots=Roots([inside]))
    with pytest.raises(RefusedError) as caught:
        load_certificate(key_ring.ec2.certificate, field="ec2_certificate", roots=Roots([inside]))
    assert (caught.value.code, caught.value.field) == ("roots.outside", "ec2_certificate")


def test_a_key_swapped_in_a_loop(inside: Path, key_ring: KeyRing) -> None:
    """A link turned to somebody else's key is never signed with."""
    found: set[str] = set()
    with swapping(LINK, inside / "link", inside / "key.pem", key_ring.stranger.key):
        for _ in attempts(ATTEMPTS, found):
            try:
                load_identity(inside / "cert.pem", inside / "link", Roots([inside]))
                found.add("loaded")
            except RefusedError as error:
                found.add(error.code)
    assert found == {"loaded", "roots.outside"}


def test_a_pipe_does_not_hold_a_confined_job(inside: Path) -> None:
    """A named pipe without a writer is refused at once."""
    os.mkfifo(inside / "pipe")
    with pytest.raises(RefusedError, match="it is not a file") as caught:
        load_identity(inside / "cert.pem", inside / "pipe", Roots([inside]))
    assert caught.value.code == "private_key.unreadable"


def test_a_lease_does_not_hold_a_job(inside: Path) -> None:
    """A file that its owner has a lease on is refused at once, and can be read when the lease is gone."""
    certificate = inside / "cert.pem"
    with certificate.open("r+b") as file:
        # The kernel tells the holder with this signal that somebody waits.
        before = signal.signal(signal.SIGIO, signal.SIG_IGN)
        try:
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
            with pytest.raises(RefusedError, match="another program holds a lease on it") as caught:
                load_certificate(certificate, field="certificate", roots=Roots([inside]))
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        finally:
            signal.signal(signal.SIGIO, before)
    assert caught.value.code == "certificate.unreadable"
    assert "/proc/locks" in caught.value.hint
    load_certificate(certificate, field="certificate", roots=Roots([inside]))


def test_a_key_may_come_through_a_pipe(inside: Path, key_ring: KeyRing) -> None:
    """A shell's <(...) is a pipe: the key need lie in no file."""
    reading, writing = os.pipe()
    with os.fdopen(writing, "wb") as sender:
        sender.write(key_ring.user.key.read_bytes())
    try:
        load_identity(inside / "cert.pem", Path(f"/proc/self/fd/{reading}"))
    finally:
        os.close(reading)


@pytest.mark.parametrize("name", ["/dev/zero", "/dev/null"])
def test_a_device_is_no_key(inside: Path, name: str) -> None:
    """What has no end is not read to its end."""
    with pytest.raises(RefusedError, match="it is not a file"):
        load_identity(inside / "cert.pem", Path(name))


def test_a_large_file_is_no_key(inside: Path) -> None:
    """A volume named by mistake is not read into memory, and none of it is in the error."""
    large = inside / "disk.img"
    with large.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(RefusedError, match="it has more than 256 KiB"):
        load_certificate(large, field="certificate")
