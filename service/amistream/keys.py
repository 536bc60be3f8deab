"""Keys: the user's RSA key and certificate, EC2's certificate, and the AES key and IV of one bundle.

Secrets are kept in `Secret`, whose `repr` is empty. Only the public key of a certificate is used: EC2's certificates
have expired and are still in use, so dates are not checked and RSA-1024 is accepted. RSA is PKCS#1 v1.5 for both
encryption and signature, as the bundle format requires; the lower-case hex text of key and IV is encrypted.

These functions read files and take milliseconds of CPU: call them on a thread. With `roots` a file must lie within
them.
"""

from __future__ import annotations

import secrets
import stat
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InternalError, InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA1, SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID

from amistream.errors import KeyMismatchError, RefusedError
from amistream.host.file_lock import locked
from amistream.host.new_file import NewFile
from amistream.host.small_file import read_small_file
from amistream.roots import Roots
from amistream.values import KIB, quoted

CERTIFICATE_FILE = "user-certificate.pem"
PRIVATE_KEY_FILE = "user-private-key.pem"
LOCK_FILE = "user-key.lock"
AES_SIZE = 16
"""Bytes of the key and of the IV."""
PEM_MAX = 256 * KIB
"""Larger than any key or chain of certificates: a larger file was given by mistake."""


class Secret:
    """Bytes that `repr` and `str` do not show, and that cannot be pickled."""

    __slots__ = ("_value",)

    def __init__(self, value: bytes) -> None:
        self._value = value

    def reveal(self) -> bytes:
        return self._value

    def __repr__(self) -> str:
        return "Secret(...)"

    def __reduce__(self) -> str:
        raise TypeError("a secret is not pickled")


@dataclass(frozen=True, slots=True)
class BundleKey:
    """The AES-128 key and IV of one bundle; never used for a second plaintext."""

    key: Secret
    iv: Secret

    @classmethod
    def generate(cls) -> BundleKey:
        return cls(Secret(secrets.token_bytes(AES_SIZE)), Secret(secrets.token_bytes(AES_SIZE)))


@dataclass(frozen=True, slots=True)
class UserIdentity:
    """The user's key pair: signs manifests and decrypts bundles."""

    certificate: x509.Certificate
    private_key: rsa.RSAPrivateKey

    def sign(self, data: bytes) -> bytes:
        return self.private_key.sign(data, padding.PKCS1v15(), SHA1())  # noqa: S303 - the format's own algorithm


def wrap(certificate: x509.Certificate, secret: Secret) -> bytes:
    """RSA-encrypt the lower-case hex text of `secret` for the certificate's owner."""
    public = certificate.public_key()
    if not isinstance(public, rsa.RSAPublicKey):
        raise RefusedError("key.not_rsa", "cannot wrap the bundle's key: the certificate's key is not RSA")
    return public.encrypt(secret.reveal().hex().encode(), padding.PKCS1v15())


def unwrap(identity: UserIdentity, wrapped_key: bytes, wrapped_iv: bytes) -> BundleKey:
    """Decrypt the bundle's key and IV with the user's private key. Raises `RefusedError` for another user's bundle."""
    return BundleKey(_unwrap(identity, wrapped_key), _unwrap(identity, wrapped_iv))


def _unwrap(identity: UserIdentity, wrapped: bytes) -> Secret:
    try:
        value = bytes.fromhex(identity.private_key.decrypt(wrapped, padding.PKCS1v15()).decode("ascii"))
    except ValueError:
        value = b""
    if len(value) != AES_SIZE:
        raise RefusedError(
            "key.other",
            "cannot decrypt the bundle's key: it was encrypted for another certificate",
            hint="give the private key of the certificate that the bundle was made with: --private-key; a job without "
            f"that option used {PRIVATE_KEY_FILE} in the state directory of its daemon",
            field="private_key",
        )
    return Secret(value)


def load_identity(
    certificate: Path, private_key: Path, roots: Roots | None = None, *, exposed_too: bool = False
) -> UserIdentity:
    """Read the user's certificate and key. Raises `RefusedError` if unreadable, exposed, not RSA, or not a pair."""
    cert = load_certificate(certificate, field="certificate", roots=roots)
    key = load_private_key(private_key, roots, exposed_too=exposed_too)
    if cert.public_key() != key.public_key():
        raise KeyMismatchError(
            "key.mismatch",
            f"cannot use the certificate {certificate} with the private key {private_key}: they are not a pair",
            hint="compare `openssl x509 -noout -modulus -in CERT` with `openssl rsa -noout -modulus -in KEY`; "
            "give the pair with --cert and --private-key",
            field="private_key",
        )
    identity = UserIdentity(cert, key)
    # Loading skips OpenSSL's own check of a key, which stops every thread for 60 ms.
    try:
        key.public_key().verify(identity.sign(b"amistream"), b"amistream", padding.PKCS1v15(), SHA1())  # noqa: S303
    except (InvalidSignature, ValueError, InternalError):
        raise RefusedError(
            "key.broken",
            f"cannot use the private key {private_key}: its signatures do not verify",
            hint=f"the file is damaged: openssl rsa -check -noout -in {quoted(private_key)}",
            field="private_key",
        ) from None
    return identity


def load_certificate(path: Path, *, field: str, roots: Roots | None = None) -> x509.Certificate:
    """Read a PEM certificate with an RSA key. Raises `RefusedError`."""
    data, _ = _read(path, roots, what="certificate", field=field)
    try:
        certificate = x509.load_pem_x509_certificate(data)
        public = certificate.public_key()
    except UnsupportedAlgorithm:
        # A kind of key that the library does not know.
        public = None
    except ValueError:
        raise RefusedError(
            "certificate.format",
            f"cannot use {path} as a certificate: it is not an X.509 certificate in PEM",
            hint="it should begin with -----BEGIN CERTIFICATE-----; convert DER with `openssl x509 -inform DER`",
            field=field,
        ) from None
    if not isinstance(public, rsa.RSAPublicKey):
        raise RefusedError(
            "certificate.not_rsa",
            f"cannot use the certificate {path}: the bundle format needs an RSA key",
            field=field,
        )
    return certificate


def own_identity(state_dir: Path) -> tuple[UserIdentity, bool]:
    """The key pair in `state_dir`, created at the first call; returns the pair and whether it is new."""
    certificate, private_key = state_dir / CERTIFICATE_FILE, state_dir / PRIVATE_KEY_FILE
    try:
        if certificate.exists() and private_key.exists():
            return load_identity(certificate, private_key), False
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Other jobs and processes must not create a pair at the same time.
        with locked(state_dir / LOCK_FILE, create=True):
            if certificate.exists() and private_key.exists():
                return load_identity(certificate, private_key), False
            if private_key.exists():
                raise RefusedError(
                    "key.no_certificate",
                    f"cannot use the private key {private_key}: its certificate {certificate} is missing",
                    hint="older bundles need this key, so it is not replaced; restore the certificate, or move the key "
                    "away to have a new pair created",
                    field="certificate",
                )
            identity = _generate_identity()
            plain = identity.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            # The key goes last: a pair counts only when both files are there.
            _write_private(certificate, identity.certificate.public_bytes(Encoding.PEM))
            _write_private(private_key, plain)
    except OSError as error:
        raise RefusedError(
            "key.state_dir",
            f"cannot store a new user key in {state_dir}: {error.strerror}",
            hint="give your own with --cert and --private-key, or set state_dir to a writable directory",
            field="private_key",
        ) from error
    return identity, True


def _generate_identity() -> UserIdentity:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "amistream bundle key")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=3650))
        .sign(key, SHA256())
    )
    return UserIdentity(certificate, key)


def _write_private(path: Path, data: bytes) -> None:
    file = NewFile(path, token="new", mode=0o600)  # noqa: S106 - no password: it marks the temporary file
    # A file left by a crash is useless, and under the lock no other process is writing it.
    file.temporary.unlink(missing_ok=True)
    with file:
        file.write(data)
        file.replace()


def load_private_key(path: Path, roots: Roots | None, *, exposed_too: bool) -> rsa.RSAPrivateKey:
    """Read an RSA private key from a PEM file. Raises `RefusedError`, also for an exposed one without `exposed_too`."""
    data, mode = _read(path, roots, what="private key", field="private_key")
    if stat.S_IMODE(mode) & 0o007 and not exposed_too:
        raise RefusedError(
            "key.exposed",
            f"cannot use the private key {path}: every user of this machine can access it",
            hint=f"chmod 600 {quoted(path)}",
            field="private_key",
        )
    try:
        key = load_pem_private_key(data, password=None, unsafe_skip_rsa_key_validation=True)
    except UnsupportedAlgorithm:
        key = None
    except TypeError:
        raise RefusedError(
            "key.encrypted",
            f"cannot use the private key {path}: it is protected by a passphrase, which a daemon cannot ask for",
            hint=f"make a copy without one: openssl rsa -in {quoted(path)} -out COPY; chmod 600 COPY",
            field="private_key",
        ) from None
    except ValueError:
        raise RefusedError(
            "key.format",
            f"cannot use {path} as a private key: it is not an RSA key in PEM",
            hint="it should begin with -----BEGIN PRIVATE KEY----- or -----BEGIN RSA PRIVATE KEY-----",
            field="private_key",
        ) from None
    if not isinstance(key, rsa.RSAPrivateKey):
        raise RefusedError("key.not_rsa", f"cannot use the private key {path}: it is not RSA", field="private_key")
    return key


def _read(path: Path, roots: Roots | None, *, what: str, field: str) -> tuple[bytes, int]:
    """Read a PEM file; returns it and its mode when it was opened."""
    return read_small_file(path, roots, what=what, field=field, code=f"{field}.unreadable", largest=PEM_MAX)
