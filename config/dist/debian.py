"""Debian's packages of any architecture: their versions, their files, and newer versions of them.

apt works in directories of its own with the machine's list of sources, so the machine's packages and architectures stay
as they are, and nothing of another architecture is run.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from config.dist.project import CACHE, BuildError, run

PACKAGES = (
    "libbz2-1.0",
    "libc6",
    "libexpat1",
    "libffi8",
    "libgcc-s1",  # glibc loads it when a thread ends
    "liblzma5",
    "libpython3.11-minimal",
    "libpython3.11-stdlib",
    "libsqlite3-0",
    "libssl3",
    "libstdc++6",
    "libuuid1",
    "python3.11-minimal",
    "zlib1g",
)


@dataclass(frozen=True, order=True)
class DebianPackage:
    """One package as the archive describes it, and the source package that it was built from."""

    name: str
    architecture: str
    version: str
    sha256: str
    source: str
    source_version: str

    @property
    def cached(self) -> Path:
        return CACHE / "debian" / f"{self.sha256}.deb"


class Apt:
    """apt for one architecture, with lists of packages of its own."""

    def __init__(self, directory: Path, architecture: str) -> None:
        self._directory = directory
        self._architecture = architecture
        for each in ("state/lists/partial", "cache/archives/partial"):
            (directory / each).mkdir(parents=True)
        (directory / "status").touch()
        self._options = [
            *("-o", f"APT::Architecture={architecture}", "-o", f"APT::Architectures={architecture}"),
            *("-o", f"Dir::State={directory / 'state'}", "-o", f"Dir::Cache={directory / 'cache'}"),
            *("-o", f"Dir::State::status={directory / 'status'}", "-o", "APT::Sandbox::User=root"),
            *("-o", "Acquire::Languages=none", "-o", "Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled=false"),
        ]
        try:
            run("apt-get", *self._options, "-qq", "update")
        except BuildError as error:
            # Other archives of the machine may have nothing for this architecture; Debian's own is asked below.
            self._trouble = f"\n{error}"
        else:
            self._trouble = ""

    def described(self, name: str, version: str = "") -> DebianPackage:
        """The package of that version, or the newest. Raises `BuildError` if the archive does not have it."""
        asked = f"{name}={version}" if version else name
        try:
            text = run("apt-cache", *self._options, "show", "--no-all-versions", asked)
        except BuildError:
            raise BuildError(
                f"cannot get {asked} for {self._architecture}: no archive in this machine's list of sources has it. "
                "The tree is made of Debian 12; after a security update there: make dist-lock" + self._trouble
            ) from None
        fields = dict(line.split(": ", 1) for line in text.splitlines() if ": " in line and not line.startswith(" "))
        source, _, source_version = fields.get("Source", name).partition(" ")
        return DebianPackage(
            name=name,
            architecture=self._architecture,
            version=fields["Version"],
            sha256=fields["SHA256"],
            source=source,
            source_version=source_version.strip("()") or fields["Version"],
        )

    def download(self, package: DebianPackage) -> None:
        """Put the file of the package into the cache. Raises `BuildError` unless it has the digest of the lock."""
        with tempfile.TemporaryDirectory(dir=self._directory) as directory:
            self.described(package.name, package.version)
            run(
                *("apt-get", *self._options, "-qq", "download", f"{package.name}={package.version}"),
                cwd=Path(directory),
            )
            (file,) = Path(directory).glob("*.deb")
            found = hashlib.sha256(file.read_bytes()).hexdigest()
            if found != package.sha256:
                raise BuildError(
                    f"cannot use {file.name}: its SHA-256 is {found}, the lock has {package.sha256}; "
                    "if Debian made the package anew: make dist-lock"
                )
            package.cached.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(file, package.cached)


@contextmanager
def apt(architecture: str) -> Iterator[Apt]:
    """Apt for that architecture of Debian, until the end of the block."""
    with tempfile.TemporaryDirectory(prefix="amistream-apt-") as directory:
        yield Apt(Path(directory), architecture)


def fetch(packages: list[DebianPackage]) -> None:
    """Download the packages that the cache does not have."""
    missing = [each for each in packages if not each.cached.exists()]
    for architecture in sorted({each.architecture for each in missing}):
        with apt(architecture) as archive:
            for each in missing:
                if each.architecture == architecture:
                    archive.download(each)


def unpack(packages: list[DebianPackage], directory: Path) -> None:
    """Unpack the files of all packages over each other."""
    for each in packages:
        run("dpkg-deb", "--extract", each.cached, directory)
