"""The list of everything in a tree, in the form of CycloneDX: versions, digests, licences, and where sources are."""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from config.dist import lock, wheels
from config.dist.debian import DebianPackage
from config.dist.project import Architecture, BuildError, epoch, version

LICENCES = {
    "bzip2": "bzip2-1.0.6",
    "expat": "MIT",
    "gcc-12": "GPL-3.0-or-later WITH GCC-exception-3.1",
    "glibc": "LGPL-2.1-or-later",
    "libffi": "MIT",
    "openssl": "Apache-2.0",
    "python3.11": "PSF-2.0",
    "sqlite3": "blessing",
    "util-linux": "BSD-3-Clause",  # of libuuid, all that is taken
    "xz-utils": "0BSD",  # liblzma is in the public domain
    "zlib": "Zlib",
}
"""The licences of Debian's source packages, of the parts that are in the tree, by their SPDX names."""
_SOURCE = (
    "Debian's source package {source} {version}: `apt-get source {source}={version}`. The patches to it are in there; "
    "config/dist/native.py is all that amistream changes: debugging symbols are removed, and the loader's paths of "
    "the host's libraries."
)


def write(target: Path, architecture: Architecture, own: Path) -> None:
    """Write the list of a tree with that wheel of amistream."""
    components = [_debian(each) for each in lock.debian_packages(architecture.debian)]
    components += [_wheel(file) for file in wheels.fetch(lock.WHEELS, architecture)]
    name = f"amistream-{version()}-linux-{architecture.name}"
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, name + _digest(own))}",
        "version": 1,
        "metadata": {
            "timestamp": datetime.fromtimestamp(epoch(), UTC).isoformat(),
            "component": {
                "type": "application",
                "bom-ref": name,
                "name": "amistream",
                "version": version(),
                "licenses": [{"license": {"id": "Apache-2.0"}}],
                "hashes": [{"alg": "SHA-256", "content": _digest(own)}],
            },
        },
        "components": components,
    }
    target.write_text(json.dumps(document, indent=1) + "\n")


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _debian(package: DebianPackage) -> dict[str, Any]:
    if package.source not in LICENCES:
        raise BuildError(f"cannot list {package.name}: config/dist/contents.py has no licence of {package.source}")
    address = f"pkg:deb/debian/{package.name}@{_quoted(package.version)}"
    return {
        "type": "library",
        "bom-ref": f"{package.name}_{package.architecture}",
        "name": package.name,
        "version": package.version,
        "description": _SOURCE.format(source=package.source, version=package.source_version),
        "licenses": [{"expression": LICENCES[package.source]}],
        "purl": f"{address}?arch={package.architecture}&distro=debian-12",
        "hashes": [{"alg": "SHA-256", "content": package.sha256}],
    }


def _wheel(file: Path) -> dict[str, Any]:
    found = wheels.metadata(file)
    pinned = f"{found['name']}=={found['version']}"
    return {
        "type": "library",
        "bom-ref": found["name"],
        "name": found["name"],
        "version": found["version"],
        "description": f"Its source distribution on PyPI: `pip download --no-deps --no-binary :all: {pinned}`.",
        "licenses": [{"license": {"name": found["licence"]}}],
        "purl": f"pkg:pypi/{found['name']}@{found['version']}",
        "hashes": [{"alg": "SHA-256", "content": _digest(file)}],
    }


def _quoted(text: str) -> str:
    """As a URL of a package has it."""
    return re.sub(r"[+:~]", lambda found: f"%{ord(found[0]):02X}", text)
