"""The rules: what of a tree comes in, and why the rest does not."""

from __future__ import annotations

import json
import os
import stat
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    pkcs12,
)
from cryptography.x509 import CertificateBuilder, Name, NameAttribute
from cryptography.x509.oid import NameOID

from amistream.errors import RefusedError
from amistream.source.tree.profiles import Profile
from amistream.source.tree.report import Fate
from amistream.source.tree.secrets import private_key_in
from source.nobody import NOBODY, as_nobody, open_folder
from source.tree.images import content_of, debugfs, is_clean, names_in, opened, write_image
from source.tree.nasty import described, make_nasty_tree
from support.mounts import dead_mount, mounted

PEM = b"-----BEGIN %bPRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQEFAASC\n-----END PRIVATE KEY-----\n"
CERTIFICATE = b"-----BEGIN CERTIFICATE-----\nMIIEvQIBADANBgkqhkiG9w0BAQEFAASC\n-----END CERTIFICATE-----\n"


def fill(root: Path, *paths: str, content: bytes = b"x") -> None:
    """Make files, and directories for names that end with a slash."""
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        if path.endswith("/"):
            (root / path).mkdir(exist_ok=True)
        else:
            (root / path).write_bytes(content)


def left_out(root: Path, **wishes: Any) -> dict[str, str]:
    """The paths that are left out, and the rules."""
    with opened(root, **wishes) as volume:
        lines = [json.loads(line) for line in volume.report.lines()]
    assert {line["fate"] for line in lines} <= {"left out"}
    return {line["path"][1:]: line["why"] for line in lines}


@pytest.mark.parametrize("kind", [b"", b"RSA ", b"EC ", b"OPENSSH ", b"ENCRYPTED "])
def test_private_keys(kind: bytes) -> None:
    """Private keys in PEM are recognised, alone or behind something else."""
    assert private_key_in(PEM % kind)
    assert private_key_in(CERTIFICATE + b"\n" + PEM % kind)
    assert private_key_in((PEM % kind).replace(b"\n", b"\r\n"))


def test_other_private_keys() -> None:
    """So are those of PuTTY and GnuPG."""
    assert private_key_in(b"PuTTY-User-Key-File-3: ssh-ed25519\nEncryption: none\n")
    assert private_key_in(b"(21:protected-private-key(3:rsa(1:n")
    assert private_key_in(b"Created: 20240101T000000\nKey: (private-key (rsa (n #00\n")
    assert private_key_in(b"-----BEGIN PGP PRIVATE KEY BLOCK-----\n\nlQVY\n")
    assert private_key_in(b"Label: (x\n" * 8 + b"Key: \n  (shadowed-private-key (ecc")
    assert not private_key_in(b"Label: (x\n" * 9 + b"Key: \n  (shadowed-private-key (ecc")


def test_private_keys_in_text() -> None:
    """So are those that other programs keep in lines of text."""
    pem = PEM % b"RSA "
    assert private_key_in(b"\xef\xbb\xbf" + pem)
    assert private_key_in(b'{"type": "service_account", "private_key": "%b"}' % pem.replace(b"\n", b"\\n"))
    assert private_key_in(b"SSH PRIVATE KEY FILE FORMAT 1.1\n\0")
    assert private_key_in(b"---- BEGIN SSH2 ENCRYPTED PRIVATE KEY ----\nComment: x\n")
    assert private_key_in(b"[Interface]\nPrivateKey = %b=\nListenPort = 51820\n" % (b"A" * 43))
    assert private_key_in(b"# created: today\nAGE-SECRET-KEY-1%b\n" % (b"Q" * 58))
    assert private_key_in(b"untrusted comment: signify secret key\nRWRC\n")
    assert private_key_in(b"Private-key-format: v1.3\nAlgorithm: 13 (ECDSAP256SHA256)\n")


def test_private_keys_in_binary() -> None:
    """So are keys in DER, and key stores that hold one; certificates in the same forms are no secrets."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = Name([NameAttribute(NameOID.COMMON_NAME, "x")])
    times = datetime(2026, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)
    builder = CertificateBuilder(name, name, key.public_key(), 1, *times)
    certificate = builder.sign(key, SHA256())
    locked = BestAvailableEncryption(b"x")
    der, plain = Encoding.DER, NoEncryption()
    for form in (PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL):
        data = key.private_bytes(der, form, plain)
        assert private_key_in(data) == "private key in DER"
        assert not private_key_in(data + b"more")
    assert private_key_in(key.private_bytes(der, PrivateFormat.PKCS8, locked)) == "private key in DER"
    assert private_key_in(pkcs12.serialize_key_and_certificates(None, key, certificate, None, locked))
    assert private_key_in(pkcs12.serialize_key_and_certificates(None, key, None, None, plain))
    assert not private_key_in(pkcs12.serialize_key_and_certificates(None, None, certificate, None, locked))
    assert not private_key_in(certificate.public_bytes(der))
    assert not private_key_in(key.public_key().public_bytes(der, PublicFormat.SubjectPublicKeyInfo))
    kept = b"\xfe\xed\xfe\xed" + bytes(30)
    assert private_key_in(kept + bytes.fromhex("300e060a2b060104012a021101010500"))
    assert not private_key_in(kept + certificate.public_bytes(der))
    packet = "69234567 16092b06010401da470f01010740"
    assert private_key_in(bytes.fromhex("945804" + packet) + bytes(80)) == "private key of GnuPG"
    assert not private_key_in(bytes.fromhex("983304" + packet) + bytes(80))


def test_no_private_keys() -> None:
    """Certificates, public keys, and programs that know the words are none."""
    assert not private_key_in(CERTIFICATE)
    assert not private_key_in(b"-----BEGIN PUBLIC KEY-----\nMIIB\n")
    assert not private_key_in(b'if line == "-----BEGIN RSA PRIVATE KEY-----":\n')
    assert not private_key_in(b"-----BEGIN RSA PRIVATE KEY-----")
    assert not private_key_in(b"")


def test_cleaned(tree: Path) -> None:
    """By default private keys, authorized_keys and shell histories stay out, by content where it decides."""
    fill(tree, "etc/ssl/key.pem", "srv/README", "etc/ssh/ssh_host_rsa_key", content=PEM % b"RSA ")
    fill(tree, "etc/ssl/ca.pem", content=CERTIFICATE)
    fill(tree, "root/.ssh/authorized_keys", "root/.ssh/id.pub", "root/.bash_history", "home/a/.bash_history.d/x")
    assert left_out(tree) == {
        "etc/ssl/key.pem": "--clean secrets: private key",
        "root/.bash_history": "--clean history",
        "root/.ssh/authorized_keys": "--clean secrets",
        "srv/README": "--clean secrets: private key",
    }
    assert left_out(tree, clean=()) == {}
    assert set(left_out(tree, clean=["history"])) == {"root/.bash_history"}
    assert set(left_out(tree, include=["*.pem", ".bash_history"])) == {"root/.ssh/authorized_keys", "srv/README"}


def test_temporary_places(tree: Path, tmp_path: Path) -> None:
    """Places whose contents do not last stay as empty directories, with their modes, and only those at the top."""
    fill(tree, "proc/1/x", "tmp/a", "var/tmp/b", "run/c", "mnt/d", "media/e", "sys/f", "srv/tmp/kept", "tmp.txt")
    (tree / "tmp").chmod(0o1777)
    assert set(left_out(tree)) == {"proc/1", "tmp/a", "var/tmp/b", "run/c", "mnt/d", "media/e", "sys/f"}
    with opened(tree) as volume:
        image = write_image(volume, tmp_path / "image")
    assert names_in(image) == {"proc", "tmp", "var", "run", "mnt", "media", "sys", "srv", "tmp.txt"}
    assert names_in(image, "/tmp") == set()
    assert "Mode:  01777" in debugfs(image, "stat /tmp")
    assert names_in(image, "/srv/tmp") == {"kept"}
    assert "tmp/a" not in left_out(tree, include=["/tmp/*"])


def test_exclude(tree: Path) -> None:
    """An excluded directory goes with all that it holds; an include wins, but not below a directory that is gone."""
    fill(tree, "a/b/c", "a/d", "old~/in", "e.log", "var/x.log")
    assert left_out(tree, exclude=["/a/b", "*~", "*.log"]) == {
        "a/b": "--exclude /a/b",
        "e.log": "--exclude *.log",
        "old~": "--exclude *~",
        "var/x.log": "--exclude *.log",
    }
    assert set(left_out(tree, exclude=["/a", "*.log"], include=["/a/b/c", "/e.log"])) == {"a", "var/x.log"}


def test_own_files(tree: Path) -> None:
    """The job's own output, key and state never come in, whatever --include says."""
    fill(tree, "state/journal", "keys/mine", "out/image.part.00", "out/image.manifest.xml", "out/image.notes", "b/k")
    fill(tree, "out/.image.part.01.x.partial", "other.part.00")
    wishes = {"own": [tree / "state", tree / "keys/mine"], "outputs": [(tree / "out", "image")], "include": ["**"]}
    assert set(left_out(tree, **wishes)) == {
        "keys/mine",
        "out/.image.part.01.x.partial",
        "out/image.manifest.xml",
        "out/image.part.00",
        "state",
    }


def test_devices(tree: Path, tmp_path: Path) -> None:
    """An empty /dev gets the devices that a system needs to start."""
    fill(tree, "dev/", "dev/file")
    with opened(tree) as volume:
        image = write_image(volume, tmp_path / "image")
    assert names_in(image, "/dev") == {"console", "null", "tty", "zero"}
    about = debugfs(image, "stat /dev/console")
    assert "character special" in about
    assert "0600" in about
    assert "05:01" in about


def test_lost_and_found(tree: Path, tmp_path: Path) -> None:
    """lost+found comes in without what it holds."""
    fill(tree, "lost+found/#123", "a")
    with opened(tree) as volume:
        image = write_image(volume, tmp_path / "image")
        assert volume.report.paths(Fate.LEFT_OUT) == [b"lost+found"]
    assert names_in(image, "/lost+found") == set()


def test_swap_files(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A swap file holds memory and never comes in, whatever its name."""
    fill(tree, "swap file", "other")
    table = tree.parent / "swaps"
    name = str(tree / "swap file").replace(" ", "\\040")
    table.write_text(f"Filename\t\t\t\tType\t\tSize\n{name}   file\t\t1048572\n")
    monkeypatch.setattr("amistream.host.swaps.SWAPS", table)
    assert set(left_out(tree, include=["**"])) == {"swap file"}


def test_mounts(tree: Path, tmp_path: Path) -> None:
    """A mounted file system below comes out as an empty directory with the mounted root's mode.

    So does a bind mount, but one of a directory onto itself is nothing else than that directory.
    """
    fill(tree, "disk/", "bound/", "x y/", "data/file", "hidden/deep/", "itself/in/file")
    (tree / "disk").chmod(0o700)
    with (
        mounted("tmpfs", tree / "disk", "-t", "tmpfs", "-o", "mode=1777") as disk,
        mounted(tree / "data", tree / "bound", "--bind"),
        mounted(tree / "itself", tree / "itself", "--bind"),
        mounted(tree / "itself" / "in", tree / "itself" / "in", "--bind"),
        mounted("tmpfs", tree / "x y", "-t", "tmpfs") as odd,
        mounted("tmpfs", tree / "hidden" / "deep", "-t", "tmpfs"),
        mounted("tmpfs", tree / "hidden", "-t", "tmpfs"),
    ):
        fill(disk, "secret")
        fill(odd, "secret")
        with opened(tree) as volume:
            image = write_image(volume, tmp_path / "image")
            assert volume.report.paths(Fate.LEFT_OUT) == [b"bound", b"disk", b"hidden", b"x y"]
        with opened(tree, cross=True) as volume:
            assert volume.report.paths(Fate.LEFT_OUT) == [b"disk", b"hidden", b"x y"]
            crossed = write_image(volume, tmp_path / "crossed")
    assert names_in(image, "/disk") == names_in(image, "/bound") == names_in(image, "/x y") == set()
    assert "Mode:  01777" in debugfs(image, "stat /disk")
    assert names_in(crossed, "/bound") == {"file"}
    assert names_in(image, "/itself/in") == {"file"}


def test_mount_of_a_dead_server(tree: Path, tmp_path: Path) -> None:
    """A mount whose server is gone is not looked at where it would not be crossed: the walk neither waits nor fails."""
    fill(tree, "data/far/", "mnt/", "file")
    with dead_mount(tree / "data/far"), dead_mount(tree / "mnt"):
        with opened(tree, exclude=["/mnt"]) as volume:
            image = write_image(volume, tmp_path / "image")
            assert volume.report.paths(*Fate) == volume.report.paths(Fate.LEFT_OUT) == [b"data/far", b"mnt"]
        with pytest.raises(RefusedError, match="data/far"), opened(tree, cross=True):
            pass
    assert is_clean(image)
    assert names_in(image) == {"data", "file"}
    assert names_in(image, "/data/far") == set()


def test_more_names_than_an_inode_can_have(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file with too many names becomes several, equal ones, and the name of each further one is reported."""
    monkeypatch.setattr(Profile, "most_links", 3)
    fill(tree, "1", content=b"content")
    for number in range(2, 9):
        os.link(tree / "1", tree / str(number))
    with opened(tree) as volume:
        image = write_image(volume, tmp_path / "image")
        assert volume.report.paths(*Fate) == volume.report.paths(Fate.SPLIT) == [b"4", b"7"]
        assert volume.inodes == 2 + 3
    assert is_clean(image)
    assert {content_of(image, f"/{number}") for number in range(1, 9)} == {b"content"}


def test_mounted_files(tree: Path, tmp_path: Path) -> None:
    """A file that is mounted over another one comes in as everybody sees it, and is named."""
    fill(tree, "etc/hosts", "etc/itself")
    fill(tmp_path, "given", content=b"given")
    with (
        mounted(tmp_path / "given", tree / "etc/hosts", "--bind"),
        mounted(tree / "etc/itself", tree / "etc/itself", "--bind"),
        opened(tree) as volume,
    ):
        image = write_image(volume, tmp_path / "image")
        assert volume.report.paths(*Fate) == [b"etc/hosts"]
        assert volume.report.paths(Fate.MOUNTED) == [b"etc/hosts"]
    assert content_of(image, "/etc/hosts") == b"given"


def test_all_in_one_mount(tree: Path, tmp_path: Path) -> None:
    """A tree that is itself a mount point in memory is walked, and has an id of its own."""
    with mounted("tmpfs", tree, "-t", "tmpfs"):
        fill(tree, "a", "b/c")
        with opened(tree) as volume:
            image = write_image(volume, tmp_path / "image")
    assert names_in(image) == {"a", "b"}
    assert content_of(image, "/b/c") == b"x"


def test_unreadable() -> None:
    """A user's job stops before the first byte for files and directories that the user may not read."""
    if os.geteuid() != 0:
        pytest.skip("needs files of another user")
    with open_folder() as folder:
        fill(folder, "small", "large", "open", "closed/x", "seen/y")
        (folder / "large").write_bytes(bytes(100_000))
        for name, mode in (("small", 0o600), ("large", 0o600), ("closed", 0o700), ("seen", 0o744)):
            (folder / name).chmod(mode)
        with as_nobody():
            with (
                pytest.raises(RefusedError, match=r"4 files \(/closed, /large, /seen/y, /small\): Permission denied"),
                opened(folder),
            ):
                pass
            with opened(folder, exclude=["/closed", "/large", "/seen", "/small"]):
                pass
            with opened(folder, allow_unreadable=True) as volume:
                assert volume.report.paths(Fate.UNREADABLE) == [b"large", b"seen/y", b"small"]
                assert volume.report.paths(Fate.NOT_LISTED) == [b"closed"]
                volume.read_into(0, memoryview(bytearray(volume.size)))


def test_as_a_user() -> None:
    """A user without rights bundles a tree of his own, equal in everything that he can see."""
    with open_folder() as folder:
        tree, mount = folder / "tree", folder / "mnt"
        tree.mkdir()
        if os.geteuid() == 0:
            os.chown(tree, NOBODY, NOBODY)
        with as_nobody():
            make_nasty_tree(tree, names=50)
            with opened(tree, clean=()) as volume:
                buffer = memoryview(bytearray(volume.size))
                volume.read_into(0, buffer)
        image = folder / "image"
        image.write_bytes(buffer)
        with mounted(image, mount, "-o", "loop,ro"):
            found = described(mount)
        del found[b"/lost+found"]
        assert found == described(tree)


def test_refused(tree: Path, tmp_path: Path) -> None:
    """A tree that does not fit is refused with both sizes; a directory that cannot be opened, too."""
    fill(tree, "a")
    os.truncate(tree / "a", 30 << 20)
    (tree / "b").write_bytes(bytes(30 << 20))
    with (
        pytest.raises(RefusedError, match=r"image of 16.0 MiB: it needs at least 3[0-9]\.[0-9] MiB"),
        opened(tree, 16 << 20),
    ):
        pass
    with pytest.raises(RefusedError, match="No such file"), opened(tmp_path / "none"):
        pass


def test_sockets_and_pipes(nasty_tree: Path, tmp_path: Path) -> None:
    """Nothing that is no regular file is opened, and all of them come in."""
    with opened(nasty_tree, clean=()) as volume:
        image = write_image(volume, tmp_path / "image")
    modes = {
        line.split("/")[5]: int(line.split("/")[2], 8) for line in debugfs(image, "ls -p /special").splitlines() if line
    }
    assert stat.S_ISFIFO(modes["fifo"])
    assert stat.S_ISSOCK(modes["socket"])


def test_report_lines(tree: Path) -> None:
    """The report is a JSON object a line, in which odd names are escaped."""
    fill(tree, "a\nb", os.fsdecode(b"\xff"))
    with opened(tree, exclude=["**"]) as volume:
        assert list(volume.report.lines()) == [
            '{"path": "/a\\\\nb", "fate": "left out", "why": "--exclude **"}',
            '{"path": "/\\\\xff", "fate": "left out", "why": "--exclude **"}',
        ]
