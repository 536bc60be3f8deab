"""Builds the tree: interpreter, standard library, wheels, native libraries, launcher, and the files for the host."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from config.dist import contents, debian, lock, native, prune, wheels
from config.dist.project import PYTHON, ROOT, Architecture, epoch, pyproject, run

_START = """\
import sys

sys.argv[0] = f"{{sys.prefix}}/bin/{name}"
from {module} import {function}

{function}()
"""
_SHELLS = {"bash": "amistream.bash", "zsh": "_amistream", "fish": "amistream.fish"}


def build(directory: Path, architecture: Architecture, own: Path, interpreter: Path | None) -> None:
    """Build the tree below `directory`, with the wheel of amistream.

    `interpreter` is a tree for this machine, which compiles the modules for another architecture; None compiles by the
    tree itself.
    """
    packages = lock.debian_packages(architecture.debian)
    debian.fetch(packages)
    files = [*wheels.fetch(lock.WHEELS, architecture), own]
    library = directory / "lib" / f"python{PYTHON}"
    libexec = directory / "libexec"
    libexec.mkdir(parents=True)
    with tempfile.TemporaryDirectory(prefix="amistream-dist-") as unpacked:
        system = Path(unpacked) / "system"
        debian.unpack(packages, system)
        shutil.copytree(system / f"usr/lib/python{PYTHON}", library, symlinks=True)
        prune.prune_standard(library)
        shutil.copy(system / f"usr/bin/python{PYTHON}", libexec)
        _add_wheels(files, library, architecture, Path(unpacked))
        native.copy_libraries(system, directory, architecture)
        _add_licences(system, directory, [each.name for each in packages])
    native.strip(directory, architecture)
    native.seal_loader(directory, architecture)
    native.build_launcher(libexec / "launcher", architecture)
    (libexec / "python3").symlink_to("launcher")
    _add_commands(directory, architecture)
    contents.write(directory / "share" / "amistream" / "contents.cdx.json", architecture, own)
    _compile(library, interpreter or directory)
    _add_completion(directory, interpreter or directory)
    _add_manual_pages(directory, interpreter or directory)
    _settle(directory)


def _add_wheels(files: list[Path], library: Path, architecture: Architecture, temporary: Path) -> None:
    """Add the wheels to the directory of the standard library: one directory is searched for a module, not two."""
    packages = temporary / "wheels"
    wheels.install(files, packages, architecture)
    shutil.copytree(packages / "share" / "amistream", library.parents[1] / "share" / "amistream")
    prune.prune_wheels(packages)
    for path in sorted(packages.iterdir()):
        path.rename(library / path.name)


def _add_licences(system: Path, tree: Path, names: list[str]) -> None:
    """Add the licences of Debian's packages. Those of the wheels are in their directories."""
    target = tree / "share" / "licenses"
    target.mkdir(parents=True, exist_ok=True)
    for name in names:
        # A package may have its documents in common with another of the same source.
        document = (system / "usr/share/doc" / name / "copyright").resolve()
        if document.is_file():
            shutil.copy(document, target / f"{name}.txt")
    shutil.copy(ROOT / "docs" / "LICENSE", target / "amistream.txt")


def commands() -> dict[str, str]:
    """The commands by name, and the function that each calls."""
    found: dict[str, str] = pyproject()["project"]["scripts"]
    return found


def _add_commands(tree: Path, architecture: Architecture) -> None:
    """Add for each command a link to the launcher, its first lines of Python, and the loader under its name."""
    starts, links = tree / "libexec" / "start", tree / "bin"
    starts.mkdir()
    links.mkdir()
    for name, function in commands().items():
        (links / name).symlink_to("../libexec/launcher")
        module, _, called = function.partition(":")
        (starts / name).write_text(_START.format(name=name, module=module, function=called))
    for name in (*commands(), "python3"):
        (tree / "lib" / "native" / name).symlink_to(architecture.loader)


def _add_completion(tree: Path, interpreter: Path) -> None:
    """Add the scripts that complete words in each shell, as the command itself shows them."""
    directory = tree / "share" / "amistream" / "completion"
    directory.mkdir()
    for shell, name in _SHELLS.items():
        (directory / name).write_text(run(interpreter / "bin" / "amistream", "completion", shell))


def _add_manual_pages(tree: Path, interpreter: Path) -> None:
    """Add the manual pages, where man(1) looks for those of the commands in `bin`."""
    pages = tree / "share" / "man"
    run(
        *(interpreter / "libexec" / "python3", ROOT / "config" / "generate.py", "--man", pages),
        env={"SOURCE_DATE_EPOCH": str(epoch())},
    )
    for page in sorted(pages.iterdir()):
        section = pages / f"man{page.suffix[1:]}"
        section.mkdir(exist_ok=True)
        page.rename(section / page.name)


def _compile(library: Path, interpreter: Path) -> None:
    """Compile all modules, to files that are never compared with their sources.

    One process with fixed hashes: the same bytes come out each time.
    """
    native_libraries = interpreter / "lib" / "native"
    run(
        *(native_libraries / "python3", "--inhibit-cache", "--library-path", native_libraries),
        *("--argv0", interpreter / "libexec" / "python3", interpreter / "libexec" / f"python{PYTHON}"),
        *("-sSB", "-X", "utf8", "-m", "compileall", "-q", "-s", library, "-p", f"lib/python{PYTHON}"),
        *("--invalidation-mode", "unchecked-hash", library),
        env={"PYTHONHASHSEED": "0"},
    )


def _settle(tree: Path) -> None:
    """Give every file its final mode and the time stamp of the build."""
    stamp = epoch()
    for path in sorted(tree.rglob("*"), reverse=True):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or (path.stat().st_mode & 0o100 and path.suffix != ".so") else 0o644)
        os.utime(path, (stamp, stamp), follow_symlinks=False)
    os.utime(tree, (stamp, stamp))
