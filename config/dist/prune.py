"""Removes unused files: parts of the standard library, sources of extension modules, data of other services.

Every pattern must match something, so that a new version of a package does not bring its unused files back unseen.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from config.dist.project import BuildError

SERVICES = frozenset({"ebs", "ec2", "events", "s3", "signin", "sns", "sqs", "sso", "sso-oidc", "sts"})
"""The services of AWS that amistream asks, and those that the SDK asks for credentials."""

_STANDARD = (
    *("__phello__", "curses", "distutils", "pydoc_data"),
    *("test", "venv", "EXTERNALLY-MANAGED", "LICENSE.txt"),
    *("antigravity.py", "sitecustomize.py", "this.py", "turtle.py", "imghdr.py", "sndhdr.py", "nntplib.py"),
    *(
        f"lib-dynload/{name}.cpython-*"
        for name in (
            *("_codecs_*", "_crypt", "_curses*", "_dbm", "_multibytecodec", "_test*", "_xx*"),
            *("audioop", "nis", "ossaudiodev", "readline", "xx*"),
        )
    ),
)
"""Of the standard library. Codecs of East Asian charsets are among it: texts here are UTF-8."""

_WHEELS = (
    *("**/*.pyx", "**/*.pxd", "**/*.pxi", "**/*.pyi", "**/*.c", "**/*.h", "**/py.typed"),
    *("**/tests", "bin", "share"),
    *("*.dist-info/RECORD", "*.dist-info/INSTALLER", "*.dist-info/REQUESTED", "*.dist-info/direct_url.json"),
    *("lxml/html", "lxml/includes", "lxml/isoschematron", "lxml/objectify.*", "lxml/sax.*", "lxml/cssselect.py"),
    *("lxml/ElementInclude.py", "lxml/doctestcompare.py", "lxml/usedoctest.py"),
    *("uvloop/_testbase.py", "zstandard/_cffi*", "zstandard/backend_cffi.py"),
    *("botocore/data/*/*/examples-1.json", "cffi/recompiler.py", "cffi/setuptools_ext.py", "pycparser"),
    *("pygments/formatters/[!_]*", "pygments/lexers/[!_]*"),
)
"""Of the wheels. Colours of program texts (pygments) are never shown, but rich loads its core."""


def prune_standard(library: Path) -> None:
    """Prune the standard library. Raises `BuildError` for a pattern that matches nothing."""
    _remove(library, _STANDARD)


def prune_wheels(packages: Path) -> None:
    """Prune the installed wheels. Raises `BuildError` for a pattern that matches nothing."""
    _remove(packages, _WHEELS)
    data = packages / "botocore" / "data"
    services = {each.name for each in data.iterdir() if each.is_dir()}
    if missing := SERVICES - services:
        raise BuildError(f"cannot prune botocore: it has no data of {', '.join(sorted(missing))}")
    for name in services - SERVICES:
        shutil.rmtree(data / name)
    for each in (data / name for name in SERVICES):
        # The SDK takes the newest version of a service's interface.
        for version in sorted(path for path in each.iterdir() if path.is_dir())[:-1]:
            shutil.rmtree(version)


def _remove(directory: Path, patterns: tuple[str, ...]) -> None:
    for pattern in patterns:
        found = list(directory.glob(pattern))
        if not found:
            raise BuildError(f"cannot prune {directory.name}: nothing matches {pattern}")
        for path in found:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
