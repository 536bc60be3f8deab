"""Finds the user's certificate and private key, checks a bundle's signature and opens its AES key.

The files are those given, else those of the settings, else the pair kept in the state directory. No pair is made here:
a new one opens no bundle. A private key alone is enough. All calls block.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import NameOID

from amistream.bundles.manifest import Manifest, check_signature
from amistream.errors import KeyMismatchError, RefusedError
from amistream.keys import (
    CERTIFICATE_FILE,
    PRIVATE_KEY_FILE,
    BundleKey,
    UserIdentity,
    load_certificate,
    load_identity,
    load_private_key,
    own_identity,
    unwrap,
)
from amistream.reports import Signature
from amistream.roots import Roots
from amistream.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """The user who is expected to have made the bundle. `named`: the user gave a file, so a mismatch is an error."""

    certificate: x509.Certificate | None
    identity: UserIdentity | None
    named: bool

    @property
    def private_identity(self) -> UserIdentity:
        """The certificate with its private key. Raises `RefusedError` when there is none."""
        if self.identity is None:
            raise RefusedError(
                "key.missing",
                "cannot open the bundle's key: the private key of its user is needed",
                hint="give it with --private-key, or set EC2_PRIVATE_KEY",
                field="private_key",
            )
        return self.identity

    def open_key(self, manifest: Manifest) -> BundleKey:
        """Unwrap the bundle's AES key and IV. Raises `RefusedError` without the right private key."""
        return open_key(self.private_identity, manifest)

    def check_signature(self, manifest: Manifest) -> Signature:
        """Check the signature. A mismatch counts as another user's, unless this user was named or can open the key."""
        if self.certificate is None:
            return Signature.UNCHECKED if manifest.signature else Signature.ABSENT
        state = check_signature(manifest, self.certificate)
        if state is Signature.WRONG and not self.named and not self._opens(manifest):
            return Signature.OTHER
        return state

    def _opens(self, manifest: Manifest) -> bool:
        try:
            self.open_key(manifest)
        except RefusedError:
            return False
        return True


def open_key(identity: UserIdentity, manifest: Manifest) -> BundleKey:
    """Unwrap the bundle's AES key and IV. Raises `RefusedError` without the right private key."""
    if not manifest.user_key or not manifest.user_iv:
        raise RefusedError(
            "key.other",
            "cannot open the bundle's key: it was made without a user certificate, so only EC2 has its key",
            hint="bundle the volume again, or launch an instance of it and bundle that",
            field="private_key",
        )
    return unwrap(identity, manifest.user_key, manifest.user_iv)


def find_owner(
    settings: Settings, certificate: Path | None, private_key: Path | None, roots: Roots | None = None
) -> Owner:
    """Read the certificate and key. Raises `RefusedError` when a file that was named cannot be used.

    Where one of the pair is named, the other is taken from the settings if it fits, else left out. With `roots` the
    named ones must lie within them, and nothing of the settings is added.
    """
    exposed_too = settings.allow_exposed_key
    named = certificate, private_key
    if roots is None or not any(named):
        # The administrator's own files may lie outside the roots.
        roots = None
        certificate, private_key = certificate or settings.certificate, private_key or settings.private_key
    if certificate and private_key:
        try:
            return _of(load_identity(certificate, private_key, roots, exposed_too=exposed_too), named=True)
        except KeyMismatchError:
            if all(named) or not any(named):
                raise
            certificate, private_key = named
    if private_key:
        key = load_private_key(private_key, roots, exposed_too=exposed_too)
        return _of(_with_certificate(key), named=True)
    if certificate:
        return Owner(
            certificate=load_certificate(certificate, field="certificate", roots=roots), identity=None, named=True
        )
    kept = settings.state_dir
    if (kept / CERTIFICATE_FILE).exists() and (kept / PRIVATE_KEY_FILE).exists():
        return _of(own_identity(kept)[0], named=False)
    return Owner(certificate=None, identity=None, named=False)


def _of(identity: UserIdentity, *, named: bool) -> Owner:
    return Owner(certificate=identity.certificate, identity=identity, named=named)


def _with_certificate(key: rsa.RSAPrivateKey) -> UserIdentity:
    """Make a throw-away certificate for a private key that comes without one."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "amistream")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=1))
        .sign(key, SHA256())
    )
    return UserIdentity(certificate, key)
