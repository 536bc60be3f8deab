"""Keys: only a valid pair is accepted, all others are refused with a fix, and no secret is shown."""

from __future__ import annotations

import copy
import os
import pickle
import resource
import stat
import subprocess
import threading
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPrivateNumbers
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from amistream.errors import RefusedError
from amistream.keys import (
    CERTIFICATE_FILE,
    LOCK_FILE,
    PRIVATE_KEY_FILE,
    BundleKey,
    Secret,
    load_certificate,
    load_identity,
    own_identity,
    wrap,
)
from source.nobody import as_nobody, open_folder

if TYPE_CHECKING:
    from support.keys import KeyRing


def openssl(*argv: str, given: bytes = b"") -> bytes:
    done = subprocess.run(["openssl", *argv], input=given, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def make_pair(folder: Path, *options: str) -> tuple[Path, Path]:
    """Make a key of any kind and its certificate with openssl; returns (certificate, key)."""
    certificate, key = folder / "cert.pem", folder / "key.pem"
    openssl("genpkey", *options, "-out", str(key))
    key.chmod(0o600)
    openssl("req", "-new", "-x509", "-key", str(key), "-subj", "/CN=x", "-out", str(certificate))
    return certificate, key


def refused(certificate: Path, key: Path) -> RefusedError:
    with pytest.raises(RefusedError) as caught:
        load_identity(certificate, key)
    return caught.value


def test_pair(key_ring: KeyRing) -> None:
    """A pair is accepted, and signs for its certificate."""
    identity = load_identity(key_ring.user.certificate, key_ring.user.key)
    assert identity.certificate.subject.rfc4514_string() == "CN=amistream test user"
    assert identity.private_key.key_size == 2048


def test_old_pair(key_ring: KeyRing) -> None:
    """An expired certificate of 1024 bits is accepted: EC2's own is of that kind."""
    assert load_identity(key_ring.ec2.certificate, key_ring.ec2.key).private_key.key_size == 1024


def test_signature(key_ring: KeyRing, tmp_path: Path) -> None:
    """Openssl verifies a signature as RSA with SHA-1."""
    identity = load_identity(key_ring.user.certificate, key_ring.user.key)
    public, signature = tmp_path / "public", tmp_path / "signature"
    public.write_bytes(openssl("x509", "-in", str(key_ring.user.certificate), "-noout", "-pubkey"))
    signature.write_bytes(identity.sign(b"what is signed"))
    argv = ["dgst", "-sha1", "-verify", str(public), "-signature", str(signature)]
    assert openssl(*argv, given=b"what is signed") == b"Verified OK\n"


def test_pkcs8(key_ring: KeyRing, tmp_path: Path) -> None:
    """A key in PKCS#8 is accepted like one in the older form."""
    key = tmp_path / "key.pem"
    key.touch(0o600)
    key.write_bytes(openssl("pkcs8", "-topk8", "-nocrypt", "-in", str(key_ring.user.key)))
    assert key.read_bytes().startswith(b"-----BEGIN PRIVATE KEY-----")
    load_identity(key_ring.user.certificate, key)


def test_no_pair(key_ring: KeyRing) -> None:
    """A certificate and a key that are not a pair are refused with both paths."""
    error = refused(key_ring.user.certificate, key_ring.stranger.key)
    assert (error.code, error.field) == ("key.mismatch", "private_key")
    assert error.message == (
        f"cannot use the certificate {key_ring.user.certificate} with the private key {key_ring.stranger.key}: "
        "they are not a pair"
    )


@pytest.mark.parametrize("mode", [0o604, 0o602, 0o601, 0o644, 0o777])
def test_exposed_key(mode: int, key_ring: KeyRing, tmp_path: Path) -> None:
    """A key that every user can access is refused, with the command that fixes it."""
    key = tmp_path / "the owner's key.pem"
    key.write_bytes(key_ring.user.key.read_bytes())
    key.chmod(mode)
    error = refused(key_ring.user.certificate, key)
    assert error.code == "key.exposed"
    subprocess.run(["/bin/sh", "-c", error.hint], check=True)
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    load_identity(key_ring.user.certificate, key)


@pytest.mark.parametrize("mode", [0o400, 0o600, 0o640])
def test_kept_key(mode: int, key_ring: KeyRing, tmp_path: Path) -> None:
    """A key for its owner, or its group, is accepted."""
    key = tmp_path / "key.pem"
    key.write_bytes(key_ring.user.key.read_bytes())
    key.chmod(mode)
    load_identity(key_ring.user.certificate, key)


def test_encrypted_key(key_ring: KeyRing, tmp_path: Path) -> None:
    """A key with a passphrase is refused, with a hint to make a copy without one."""
    for number, option in enumerate(("-traditional", "")):
        key = tmp_path / f"key{number}.pem"
        argv = ["-in", str(key_ring.user.key), "-aes128", "-passout", "pass:x", "-out", str(key)]
        openssl("rsa", *([option] if option else []), *argv)
        key.chmod(0o600)
        error = refused(key_ring.user.certificate, key)
        assert error.code == "key.encrypted"
        assert f"openssl rsa -in {key} -out COPY" in error.hint


KINDS = {
    "P-256": ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"],
    "a rare curve": ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:secp112r1"],
    "Ed25519": ["-algorithm", "ED25519"],
}


@pytest.mark.parametrize("kind", KINDS)
def test_not_rsa(kind: str, key_ring: KeyRing, tmp_path: Path) -> None:
    """A certificate or key that is not RSA is refused as such, even of an unknown kind."""
    certificate, key = make_pair(tmp_path, *KINDS[kind])
    error = refused(certificate, key)
    assert (error.code, error.field) == ("certificate.not_rsa", "certificate")
    error = refused(key_ring.user.certificate, key)
    assert (error.code, error.field) == ("key.not_rsa", "private_key")
    assert error.message == f"cannot use the private key {key}: it is not RSA"


@pytest.mark.parametrize(
    "content", [b"", b"\0\xff garbage", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"]
)
def test_garbage(content: bytes, key_ring: KeyRing, tmp_path: Path) -> None:
    """A file that is not PEM, or damaged, is refused, and its content is not repeated."""
    path = tmp_path / "file.pem"
    path.touch(0o600)
    path.write_bytes(content)
    error = refused(path, key_ring.user.key)
    assert error.code == "certificate.format"
    assert error.message == f"cannot use {path} as a certificate: it is not an X.509 certificate in PEM"
    error = refused(key_ring.user.certificate, path)
    assert error.code == "key.format"
    assert error.message == f"cannot use {path} as a private key: it is not an RSA key in PEM"
    assert "AAAA" not in str(error)


def test_exchanged(key_ring: KeyRing) -> None:
    """A certificate given as the key, and vice versa, is refused."""
    assert refused(key_ring.user.key, key_ring.user.key).code == "certificate.format"
    certificate = key_ring.user.certificate
    certificate.chmod(0o600)
    assert refused(certificate, certificate).code == "key.format"


def test_missing(key_ring: KeyRing, tmp_path: Path) -> None:
    """A missing file is refused with the system's reason and its field."""
    path = tmp_path / "none.pem"
    error = refused(path, key_ring.user.key)
    assert (error.code, error.field) == ("certificate.unreadable", "certificate")
    assert error.message == f"cannot read the certificate {path}: No such file or directory"
    error = refused(key_ring.user.certificate, path)
    assert (error.code, error.field) == ("private_key.unreadable", "private_key")
    assert error.message == f"cannot read the private key {path}: No such file or directory"


KEPT = [CERTIFICATE_FILE, PRIVATE_KEY_FILE, LOCK_FILE]


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@contextmanager
def open_umask() -> Iterator[None]:
    """Let new files have the mode that their maker asks for."""
    before = os.umask(0)
    try:
        yield
    finally:
        os.umask(before)


def test_own_identity(tmp_path: Path) -> None:
    """A pair is created at the first call, for its owner alone; later calls read the same one."""
    state = tmp_path / "deep" / "state"
    with open_umask():
        made, is_new = own_identity(state)
    assert is_new
    assert mode_of(state) == 0o700
    assert sorted(path.name for path in state.iterdir()) == sorted(KEPT)
    assert mode_of(state / PRIVATE_KEY_FILE) == mode_of(state / CERTIFICATE_FILE) == 0o600
    again, is_new = own_identity(state)
    assert not is_new
    assert again.certificate == made.certificate
    assert again.private_key.private_numbers() == made.private_key.private_numbers()
    assert openssl("rsa", "-check", "-noout", "-in", str(state / PRIVATE_KEY_FILE)) == b"RSA key ok\n"


def test_own_identity_at_once(tmp_path: Path) -> None:
    """Jobs that ask for the pair at the same moment all get the stored one."""
    together = threading.Barrier(4)

    def ask() -> tuple[bytes, bool]:
        together.wait(20)
        identity, is_new = own_identity(tmp_path / "state")
        return identity.certificate.public_bytes(Encoding.PEM), is_new

    with ThreadPoolExecutor(4) as pool:
        answers = [future.result() for future in [pool.submit(ask) for _ in range(4)]]
    assert {certificate for certificate, _ in answers} == {(tmp_path / "state" / CERTIFICATE_FILE).read_bytes()}
    assert sorted(is_new for _, is_new in answers) == [False, False, False, True]


def test_own_identity_after_a_crash(tmp_path: Path) -> None:
    """A certificate without its key does not count: a new pair is created."""
    own_identity(tmp_path)
    (tmp_path / PRIVATE_KEY_FILE).unlink()
    identity, is_new = own_identity(tmp_path)
    assert is_new
    assert load_identity(tmp_path / CERTIFICATE_FILE, tmp_path / PRIVATE_KEY_FILE).certificate == identity.certificate


def test_own_identity_after_a_full_disk(tmp_path: Path) -> None:
    """A pair that cannot be written is refused with the reason, and created once there is space."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, before[1]))
    try:
        with pytest.raises(RefusedError) as caught:
            own_identity(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.code == "key.state_dir"
    assert caught.value.message == f"cannot store a new user key in {tmp_path}: File too large"
    assert own_identity(tmp_path)[1]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(KEPT)


def test_own_identity_not_allowed() -> None:
    """A state directory of another user is refused, with a fix."""
    with open_folder() as folder:
        state = folder / "state"
        own_identity(state)
        for place in (state, folder / "new"):
            with as_nobody(), pytest.raises(RefusedError) as caught:
                own_identity(place)
            assert caught.value.code == "key.state_dir"
            assert caught.value.message == f"cannot store a new user key in {place}: Permission denied"
            assert "--cert and --private-key" in caught.value.hint


def test_own_identity_in_a_file(tmp_path: Path) -> None:
    """A state directory that is a file is refused."""
    place = tmp_path / "file"
    place.touch()
    with pytest.raises(RefusedError, match="cannot store a new user key"):
        own_identity(place)


SHOWN = b"0123456789abcdef"


def test_secret_is_not_shown() -> None:
    """A secret does not show in text, in a traceback with locals, or in a copy."""
    key = BundleKey(Secret(SHOWN), Secret(SHOWN))
    secret = key.key
    try:
        raise RuntimeError(secret, key)
    except RuntimeError as error:
        shown = "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())
    texts = [repr(secret), str(secret), f"{secret}", f"{secret!r:>20}", f"{key}", str([secret]), f"{key!r}", shown]
    for text in texts:
        assert "Secret(...)" in text
        assert SHOWN.decode() not in text.replace(f"SHOWN = {SHOWN!r}", "")
        assert SHOWN.hex() not in text
    assert secret.reveal() == SHOWN


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_secret_is_not_pickled(protocol: int) -> None:
    """A secret, and an object with one, can be neither pickled nor copied."""
    for value in (Secret(SHOWN), BundleKey(Secret(SHOWN), Secret(SHOWN))):
        with pytest.raises(TypeError, match="a secret is not pickled"):
            pickle.dumps(value, protocol)
        with pytest.raises(TypeError, match="a secret is not pickled"):
            copy.deepcopy(value)


def test_bundle_keys_differ() -> None:
    """Every bundle has its own key and IV, 16 bytes each."""
    values = [secret.reveal() for _ in range(50) for key in [BundleKey.generate()] for secret in (key.key, key.iv)]
    assert {len(value) for value in values} == {16}
    assert len(set(values)) == 100


def test_wrap(key_ring: KeyRing) -> None:
    """Unwrapping with openssl gives the secret's hex text in lower case, for keys of any size."""
    secret = Secret(bytes.fromhex("00ff0a1b2c3d4e5f60718293a4b5c6d7"))
    for pair in (key_ring.user, key_ring.ec2):
        wrapped = wrap(load_certificate(pair.certificate, field="certificate"), secret)
        plain = openssl("pkeyutl", "-decrypt", "-inkey", str(pair.key), given=wrapped)
        assert plain == b"00ff0a1b2c3d4e5f60718293a4b5c6d7"


def test_wrap_is_random(key_ring: KeyRing) -> None:
    """The same secret is never encrypted to the same bytes twice."""
    certificate = load_certificate(key_ring.user.certificate, field="certificate")
    assert wrap(certificate, Secret(SHOWN)) != wrap(certificate, Secret(SHOWN))


def test_wrap_not_rsa(tmp_path: Path) -> None:
    """Wrapping for a certificate that is not RSA is refused."""
    from cryptography import x509

    path, _ = make_pair(tmp_path, *KINDS["P-256"])
    with pytest.raises(RefusedError, match="the certificate's key is not RSA"):
        wrap(x509.load_pem_x509_certificate(path.read_bytes()), Secret(SHOWN))


def test_keys_in_memory_are_what_is_kept(tmp_path: Path) -> None:
    """A new identity is the one in the files, so its bundles can be decrypted later."""
    identity, _ = own_identity(tmp_path)
    plain = identity.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    assert (tmp_path / PRIVATE_KEY_FILE).read_bytes() == plain


def test_damaged_key(key_ring: KeyRing, tmp_path: Path) -> None:
    """A key with a matching public half and a damaged private half is found before it signs."""
    good = load_pem_private_key(key_ring.user.key.read_bytes(), password=None)
    assert isinstance(good, RSAPrivateKey)
    numbers = good.private_numbers()
    damaged = RSAPrivateNumbers(
        p=numbers.p,
        q=numbers.q,
        d=numbers.d ^ 4,
        dmp1=numbers.dmp1 ^ 4,
        dmq1=numbers.dmq1 ^ 4,
        iqmp=numbers.iqmp,
        public_numbers=numbers.public_numbers,
    ).private_key(unsafe_skip_rsa_key_validation=True)
    path = tmp_path / "damaged.pem"
    path.touch(0o600)
    path.write_bytes(damaged.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    with pytest.raises(RefusedError, match="its signatures do not verify") as caught:
        load_identity(key_ring.user.certificate, path)
    assert caught.value.code == "key.broken"
