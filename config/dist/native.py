"""Programs and libraries of the tree: which libraries they need, the loader, the launcher."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from config.dist.project import HERE, PYTHON, Architecture, BuildError, run

_ALSO = ("libgcc_s.so.1",)
"""Libraries that no file names, and glibc loads when a thread ends."""
_MAGIC = b"\x7fELF"


def programs_and_libraries(directory: Path) -> Iterator[Path]:
    """All ELF files below the directory, in order."""
    for path in sorted(directory.rglob("*")):
        if path.is_file() and not path.is_symlink():
            with path.open("rb") as file:
                if file.read(len(_MAGIC)) == _MAGIC:
                    yield path


def needed(path: Path) -> list[str]:
    """The libraries that an ELF file of any architecture names."""
    return re.findall(r"\(NEEDED\).*\[(.+)\]", run("readelf", "--dynamic", "--wide", path))


def copy_libraries(system: Path, tree: Path, architecture: Architecture) -> None:
    """Copy the libraries that the tree's files need, and theirs, from the unpacked packages."""
    native = tree / "lib" / "native"
    native.mkdir(parents=True)
    offered: dict[str, Path] = {}
    for directory in (system / "lib" / architecture.triplet, system / "usr/lib" / architecture.triplet):
        offered.update((path.name, path) for path in sorted(directory.glob("*.so*")))
    own = {path.name for path in programs_and_libraries(tree)}
    missing = [(name, "glibc") for name in _ALSO]
    missing += [(name, path.name) for path in programs_and_libraries(tree) for name in needed(path)]
    while missing:
        name, by = missing.pop()
        if name in own or (native / name).exists():
            continue
        if name not in offered:
            raise BuildError(f"cannot build the tree: {by} needs {name}, which no package of config/dist/debian.py has")
        shutil.copy(offered[name].resolve(), native / name)
        missing += [(each, name) for each in needed(native / name)]


def seal_loader(tree: Path, architecture: Architecture) -> None:
    """Take from the loader the directories and the preloaded libraries of the host, which may not suit the tree's libc.

    Strings of the same length replace their paths; no code is changed. The cache of the host's libraries needs no such
    change, because the launcher asks the loader not to read it.
    """
    loader = tree / "lib" / "native" / architecture.loader
    data = loader.read_bytes()
    triplet = architecture.triplet.encode()
    for path in (b"/lib/" + triplet + b"/\0/usr/lib/" + triplet + b"/\0/lib/\0/usr/lib/\0", b"/etc/ld.so.preload\0"):
        if path not in data:
            raise BuildError(f"cannot seal {loader.name}: it does not hold {path!r}; see seal_loader in config/dist")
        data = data.replace(path, _elsewhere(path))
    loader.write_bytes(data)
    loader.chmod(0o755)


def _elsewhere(paths: bytes) -> bytes:
    """Paths of the same lengths in /sys, where nobody can make files."""
    return re.sub(rb"[^\0]+", lambda found: (b"/sys/".ljust(len(found[0]), b"-"))[: len(found[0]) - 1] + b"/", paths)


def build_launcher(target: Path, architecture: Architecture) -> None:
    """Compile the launcher, linked statically."""
    run(
        *(architecture.compiler, "-std=c11", "-D_GNU_SOURCE", f'-DPYTHON="python{PYTHON}"', "-Os", "-static", "-s"),
        *("-Wall", "-Wextra", "-Werror", "-Wl,--build-id=none", "-o", target, HERE / "launcher.c"),
    )


def strip(tree: Path, architecture: Architecture) -> None:
    """Remove debugging symbols from all extension modules and libraries but the loader."""
    for path in programs_and_libraries(tree):
        if path.name != architecture.loader:
            run(f"{architecture.tools}strip", "--strip-unneeded", "--preserve-dates", path)
