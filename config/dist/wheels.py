"""Wheels of PyPI for another processor or Python than this one, and the wheel of amistream itself."""

from __future__ import annotations

import json
import re
import zipfile
from dataclasses import dataclass
from email.parser import HeaderParser
from pathlib import Path
from typing import Any

from config.dist.project import CACHE, PYTHON, ROOT, TOOLS, Architecture, epoch, pyproject, run

_GLIBC = 36
"""The minor version of the glibc that the tree brings: 2.36. Wheels for it and older ones are taken."""


@dataclass(frozen=True, order=True)
class Wheel:
    """One distribution of PyPI, and the digest of its file."""

    name: str
    version: str
    sha256: str


def _platform(architecture: Architecture) -> list[str]:
    """The options with which pip takes wheels for the tree instead of those for the Python that runs it."""
    tags = [f"manylinux_2_{minor}_{architecture.name}" for minor in range(_GLIBC, 16, -1)]
    platforms = [f"--platform={tag}" for tag in (*tags, f"manylinux2014_{architecture.name}")]
    abis = [f"--abi={each}" for each in (f"cp{PYTHON.replace('.', '')}", "abi3", "none")]
    return ["--only-binary=:all:", "--implementation=cp", f"--python-version={PYTHON}", *abis, *platforms]


def _pip(*words: str | Path) -> str:
    stamp = {"SOURCE_DATE_EPOCH": str(epoch())}
    return run(TOOLS / "python", "-m", "pip", "--disable-pip-version-check", *words, env=stamp)


def resolve(requirements: list[str], architecture: Architecture | None) -> list[Wheel]:
    """The newest wheels that meet the requirements, for that architecture or for this Python."""
    options = _platform(architecture) if architecture else ["--only-binary=:all:"]
    text = _pip(
        *("install", "--quiet", "--dry-run", "--ignore-installed", "--target=/nonexistent", "--report=-"),
        *options,
        *requirements,
    )
    report: dict[str, Any] = json.loads(text)
    return sorted(
        Wheel(
            name=normalised(each["metadata"]["name"]),
            version=each["metadata"]["version"],
            sha256=each["download_info"]["archive_info"]["hashes"]["sha256"],
        )
        for each in report["install"]
    )


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def requirements() -> list[str]:
    """The requirements of amistream, from pyproject.toml."""
    found: list[str] = pyproject()["project"]["dependencies"]
    return found


def fetch(lock: Path, architecture: Architecture) -> list[Path]:
    """Download the wheels of the lock, and return their files. pip compares each with the digests of the lock."""
    directory = CACHE / "wheels" / architecture.name
    directory.mkdir(parents=True, exist_ok=True)
    _pip(
        *("download", "--quiet", "--no-deps", "--require-hashes", f"--requirement={lock}", f"--dest={directory}"),
        *(f"--find-links={directory}", *_platform(architecture)),
    )
    wanted = dict(pinned(lock))
    return sorted(file for file in directory.glob("*.whl") if wanted.get(normalised(_name(file))) == _version(file))


def pinned(lock: Path) -> list[tuple[str, str]]:
    """The names and versions of a lock."""
    return re.findall(r"^([a-z0-9-]+)==(\S+)", lock.read_text(), re.MULTILINE)


def _name(file: Path) -> str:
    return file.name.split("-")[0]


def _version(file: Path) -> str:
    return file.name.split("-")[1]


def install(files: list[Path], directory: Path, architecture: Architecture) -> None:
    """Unpack the wheels into the directory, as pip does for an installation."""
    _pip(
        *("install", "--quiet", "--no-index", "--no-deps", "--no-compile", f"--target={directory}"),
        *_platform(architecture),
        *files,
    )


def build_own(directory: Path) -> Path:
    """Build the wheel of amistream by the build tools of the lock, without their isolation."""
    _pip("wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-cache-dir", f"--wheel-dir={directory}", ROOT)
    (file,) = directory.glob("amistream-*.whl")
    return file


def build_sdist(directory: Path) -> Path:
    """Build the sdist of amistream by the build tools of the lock."""
    stamp = {"SOURCE_DATE_EPOCH": str(epoch())}
    run(TOOLS / "python", "-m", "hatchling", "build", "-t", "sdist", "-d", directory, cwd=ROOT, env=stamp)
    (file,) = directory.glob("amistream-*.tar.gz")
    return file


def metadata(file: Path) -> dict[str, str]:
    """The name, version and licence of a wheel, from its METADATA."""
    with zipfile.ZipFile(file) as archive:
        (member,) = (each for each in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", each))
        fields = HeaderParser().parsestr(archive.read(member).decode())
    classified = [each for each in fields.get_all("Classifier", []) if each.startswith("License ::")]
    named = (
        fields["License-Expression"]
        or _short(fields["License"])
        or "; ".join(each.rpartition(" :: ")[2] for each in classified)
    )
    return {"name": normalised(fields["Name"]), "version": fields["Version"], "licence": named or "see its files"}


def _short(licence: str | None) -> str:
    """The field License, unless it holds the whole text."""
    return licence if licence and "\n" not in licence and len(licence) < 60 else ""  # noqa: PLR2004
