"""Throwaway key pairs and certificates, like those that users and EC2 have."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class KeyPair:
    """Paths of a private key (PEM, mode 0600) and its self-signed certificate."""

    key: Path
    certificate: Path


@dataclass(frozen=True, kw_only=True)
class KeyRing:
    """The user's pair, "EC2's" (RSA-1024, expired in 2006, as the real one), and another user's."""

    user: KeyPair
    ec2: KeyPair
    stranger: KeyPair


def make_keys(directory: Path) -> KeyRing:
    """Write three pairs into `directory`."""
    now = dt.datetime.now(dt.UTC)
    today = (now - dt.timedelta(days=1), now + dt.timedelta(days=30))
    past = (
        dt.datetime(2005, 8, 9, tzinfo=dt.UTC),
        dt.datetime(2006, 8, 9, tzinfo=dt.UTC),
    )
    return KeyRing(
        user=make_pair(directory, "user", bits=2048, valid=today),
        ec2=make_pair(directory, "ec2", bits=1024, valid=past),
        stranger=make_pair(directory, "stranger", bits=2048, valid=today),
    )


def make_pair(directory: Path, name: str, *, bits: int, valid: tuple[dt.datetime, dt.datetime]) -> KeyPair:
    """Write one RSA key of `bits` bits and its self-signed certificate into `directory`."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=bits)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"amistream test {name}")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(valid[0])
        .not_valid_after(valid[1])
        .sign(key, hashes.SHA256())
    )
    pair = KeyPair(key=directory / f"{name}-key.pem", certificate=directory / f"{name}-cert.pem")
    pair.key.touch(0o600)
    pair.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        )
    )
    pair.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return pair
