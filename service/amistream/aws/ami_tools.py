"""Takes EC2's certificate out of Amazon's ec2-ami-tools: their archive, the unpacked directory, or the file itself.

A certificate counts by its fingerprint, whatever its name. Nothing here uses the network; calls block on files.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA1
from cryptography.hazmat.primitives.serialization import Encoding

from amistream.aws.regions import AMI_TOOLS, KnownCertificate
from amistream.errors import RefusedError
from amistream.keys import PEM_MAX

_MOST_FILES = 10_000


def certificate_in(place: Path, known: KnownCertificate) -> bytes:
    """The known certificate in PEM, as found in `place`. Raises `RefusedError` if no file there has its fingerprint."""
    others = []
    try:
        for name, data in _candidates(place):
            try:
                certificate = x509.load_pem_x509_certificate(data)
            except ValueError:
                continue
            fingerprint = certificate.fingerprint(SHA1()).hex()  # noqa: S303 - EC2's certificates are known by it
            if fingerprint == known.fingerprint:
                return certificate.public_bytes(Encoding.PEM)
            others.append(f"{name} ({fingerprint})")
    except (OSError, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise RefusedError(
            "ami_tools.unreadable",
            f"cannot read {place}: {getattr(error, 'strerror', None) or error}",
            hint=f"get it again: curl -O {AMI_TOOLS}",
            field="ami_tools",
        ) from error
    found = f"it has {', '.join(others[:5])}" if others else "it has no certificate"
    raise RefusedError(
        "ami_tools.no_certificate",
        f"cannot find EC2's {known.file_name} in {place}: no certificate there has the SHA-1 fingerprint "
        f"{known.fingerprint}; {found}",
        hint=f"give Amazon's own ec2-ami-tools.zip: curl -O {AMI_TOOLS}",
        field="ami_tools",
    )


def _candidates(place: Path) -> Iterator[tuple[str, bytes]]:
    """The PEM files of a directory or a zip archive, or the file itself."""
    if place.is_dir():
        for path in sorted(place.rglob("*.pem"))[:_MOST_FILES]:
            if path.is_file() and path.stat().st_size <= PEM_MAX:
                yield path.name, path.read_bytes()
    elif zipfile.is_zipfile(place):
        with zipfile.ZipFile(place) as archive:
            for member in archive.infolist()[:_MOST_FILES]:
                if member.filename.endswith(".pem") and member.file_size <= PEM_MAX:
                    with archive.open(member) as file:
                        yield member.filename.rpartition("/")[2], file.read(PEM_MAX)
    else:
        with place.open("rb") as file:
            yield place.name, file.read(PEM_MAX)
