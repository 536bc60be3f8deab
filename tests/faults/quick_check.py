"""Checks a small bundle in this process: the checks of `support.referee`, in less time.

For tests that end in dozens of bundles. Like the referee it imports nothing of amistream.
"""

from __future__ import annotations

import hashlib
import io
import re
import tarfile
import zlib
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, padding, serialization
from cryptography.hazmat.primitives.asymmetric import padding as rsa_padding
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from lxml import etree

from support.referee import check_form

if TYPE_CHECKING:
    from pathlib import Path

    from support.keys import KeyPair


def quickly_check_bundle(directory: Path, image: Path, user: KeyPair) -> int:
    """Assert that the one bundle in `directory` is well made and holds `image`; returns the number of its parts."""
    (path,) = directory.glob("*.manifest.xml")
    manifest = path.read_bytes()
    check_form(manifest)
    root = etree.fromstring(manifest)

    def text(where: str) -> str:
        return root.findtext(where) or ""

    # Proving that a key is one takes longer than the rest.
    key = serialization.load_pem_private_key(user.key.read_bytes(), None, unsafe_skip_rsa_key_validation=True)
    public = x509.load_pem_x509_certificate(user.certificate.read_bytes()).public_key()
    assert isinstance(key, rsa.RSAPrivateKey)
    assert isinstance(public, rsa.RSAPublicKey)

    def secret(where: str) -> bytes:
        return bytes.fromhex(key.decrypt(bytes.fromhex(text(where)), rsa_padding.PKCS1v15()).decode())

    parts = [directory / (each.findtext("filename") or "") for each in root.findall("image/parts/part")]
    assert {each.name for each in directory.iterdir()} == {path.name, *(each.name for each in parts)}
    pieces = [each.read_bytes() for each in parts]
    digests = [each.findtext("digest") for each in root.findall("image/parts/part")]
    assert [hashlib.sha1(piece).hexdigest() for piece in pieces] == digests
    assert sum(map(len, pieces)) == int(text("image/bundled_size"))
    assert len({len(piece) for piece in pieces[:-1]}) <= 1, "parts of different sizes"

    cipher = Cipher(algorithms.AES(secret("image/user_encrypted_key")), modes.CBC(secret("image/user_encrypted_iv")))
    unpadder = padding.PKCS7(128).unpadder()
    packed = unpadder.update(cipher.decryptor().update(b"".join(pieces))) + unpadder.finalize()
    member = zlib.decompressobj(16 + zlib.MAX_WBITS)
    tar = member.decompress(packed)
    assert member.eof, "the gzip member does not end"
    assert not member.unused_data, "bytes after the gzip member"
    assert hashlib.sha1(tar).hexdigest() == text("image/digest")
    with tarfile.open(fileobj=io.BytesIO(tar), mode="r:") as archive:
        (only,) = archive.getmembers()
        content = archive.extractfile(only)
        assert content is not None
        assert content.read() == image.read_bytes(), "another image"

    signed = re.findall(rb"<machine_configuration>.*</machine_configuration>|<image>.*</image>", manifest, re.DOTALL)
    public.verify(bytes.fromhex(text("signature")), b"".join(signed), rsa_padding.PKCS1v15(), hashes.SHA1())  # noqa: S303 - the format's own
    return len(parts)
