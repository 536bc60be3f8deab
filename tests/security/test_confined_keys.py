"""Keys and certificates of a confined job, and the reading of any key file."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from amistream import keys
from amistream.errors import RefusedError
from amistream.host import file_lock, small_file
from amistream.host.file_lock import locked
from amistream.keys import load_certificate, load_identity, own_identity
from amistream.roots import Roots
from security.swapping import LINK, attempts, swapping

if TYPE_CHECKING:
    from support.keys import KeyRing

ATTEMPTS = 300


@pytest.fixture
def inside(tmp_path: Path, key_ring: KeyRing) -> Path:
    """Make the only root, with the user's pair in it."""
    folder = tmp_path / "inside"
    folder.mkdir()
    shutil.copy(key_ring.user.certificate, folder / "cert.pem")
    shutil.copy(key_ring.user.key, folder / "key.pem")
    return folder


def test_a_pair_within_the_roots_is_loaded(inside: Path) -> None:
    """A confined job may use its own keys from where it may bundle volumes."""
    load_identity(inside / "cert.pem", inside / "key.pem", Roots([inside]))


def test_a_pair_outside_is_refused(inside: Path, key_ring: KeyRing) -> None:
    """Both files of the pair must lie in a root, and the error names the field of the one that does not."""
    for certificate, key, field in (
        (key_ring.user.certificate, inside / "key.pem", "certificate"),
        (inside / "cert.pem", key_ring.user.key, "private_key"),
    ):
        with pytest.raises(RefusedError) as caught:
            load_identity(certificate, key, Roots([inside]))
        assert (caught.value.code, caught.value.field) == ("roots.outside", field)


def test_a_certificate_outside_is_refused(inside: Path, key_ring: KeyRing) -> None:
    """EC2's certificate must lie in a root, too, if the job names one."""
    load_certificate(inside / "cert.pem", field="ec2_certificate", roots=Roots([inside]))
    with pytest.raises(RefusedError) as caught:
        load_certificate(key_ring.ec2.certificate, field="ec2_certificate", roots=Roots([inside]))
    assert (caught.value.code, caught.value.field) == ("roots.outside", "ec2_certificate")


def test_a_key_swapped_in_a_loop(inside: Path, key_ring: KeyRing) -> None:
    """A link swapped to another user's key never makes the daemon sign with that key."""
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
    """A file with a lease on it is refused at once, and can be read when the lease is gone."""
    certificate = inside / "cert.pem"
    with certificate.open("r+b") as file:
        # With this signal the kernel reports a waiting reader to the lease's holder.
        before = signal.signal(signal.SIGIO, signal.SIG_IGN)
        try:
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
            with pytest.raises(RefusedError, match="another program has a lease on it") as caught:
                load_certificate(certificate, field="certificate", roots=Roots([inside]))
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        finally:
            signal.signal(signal.SIGIO, before)
    assert caught.value.code == "certificate.unreadable"
    assert "/proc/locks" in caught.value.hint
    load_certificate(certificate, field="certificate", roots=Roots([inside]))


def test_a_key_may_come_through_a_pipe(inside: Path, key_ring: KeyRing) -> None:
    """A key may come through a pipe of the shell's <(...), so that it needs no file."""
    reading, writing = os.pipe()
    with os.fdopen(writing, "wb") as sender:
        sender.write(key_ring.user.key.read_bytes())
    try:
        load_identity(inside / "cert.pem", Path(f"/proc/self/fd/{reading}"))
    finally:
        os.close(reading)


@pytest.mark.parametrize("name", ["/dev/zero", "/dev/null"])
def test_a_device_is_no_key(inside: Path, name: str) -> None:
    """An endless device is not read as a key."""
    with pytest.raises(RefusedError, match="it is not a file"):
        load_identity(inside / "cert.pem", Path(name))


def test_a_large_file_is_no_key(inside: Path) -> None:
    """A volume given as a key by mistake is not read into memory, and the error holds none of its data."""
    large = inside / "disk.img"
    with large.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(RefusedError, match="it has more than 256 KiB"):
        load_certificate(large, field="certificate")


@pytest.mark.parametrize("writer", [False, True], ids=["nobody writes", "a writer that does not end"])
def test_a_pipe_without_an_end_holds_no_job(inside: Path, writer: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A named pipe of root's own job is refused when its data has no end within the time for it."""
    monkeypatch.setattr(small_file, "PIPE_PATIENCE_S", 0.05)
    os.mkfifo(inside / "pipe")
    sender = os.open(inside / "pipe", os.O_RDWR) if writer else -1
    try:
        if writer:
            os.write(sender, b"-----BEGIN")
        with pytest.raises(RefusedError, match="the pipe had no end within") as caught:
            load_identity(inside / "cert.pem", inside / "pipe")
    finally:
        if writer:
            os.close(sender)
    assert caught.value.code == "private_key.unreadable"


def test_a_log_of_the_kernel_is_no_certificate() -> None:
    """A file of the kernel that has no end and loses what is read is not read."""
    with pytest.raises(RefusedError, match="it is not an X"):
        load_certificate(Path("/proc/kmsg"), field="certificate")


def test_a_held_lock_of_the_key_pair_holds_no_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that stopped while it made the user's key pair is an error with its file, not a wait without end."""
    monkeypatch.setattr(file_lock, "PATIENCE_S", 0.05)
    with locked(tmp_path / keys.LOCK_FILE, create=True), pytest.raises(RefusedError, match="fuser -v") as caught:
        own_identity(tmp_path)
    assert caught.value.code == "key.state_dir"
