"""The whole build: for each architecture a tree, its archive, and the list of its contents; the wheel and the sdist."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from config.dist import archive, packages, tree, wheels
from config.dist.project import ARCHITECTURES, Architecture, version


def build(names: list[str], output: Path) -> None:
    """Build the installations for the architectures of those names into a directory."""
    output.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="amistream-dist-") as temporary:
        directory = Path(temporary)
        own = wheels.build_own(directory)
        _publish(own, output)
        _publish(wheels.build_sdist(directory), output)
        # Modules are compiled by a tree of this machine's architecture, so it comes first.
        first, *others = sorted(names, key=lambda name: bool(ARCHITECTURES[name].tools))
        interpreter = _build_one(directory, ARCHITECTURES[first], own, None, output)
        for name in others:
            _build_one(directory, ARCHITECTURES[name], own, interpreter, output)


def _build_one(directory: Path, architecture: Architecture, own: Path, interpreter: Path | None, output: Path) -> Path:
    name = f"amistream-{version()}-linux-{architecture.name}"
    made = directory / architecture.name / f"amistream-{version()}"
    tree.build(made, architecture, own, interpreter)
    archive.pack(made, directory / f"{name}.tar.xz")
    _publish(directory / f"{name}.tar.xz", output)
    for file in packages.build(made, directory, architecture):
        _publish(file, output)
    listed = directory / f"{name}.cdx.json"
    shutil.copy(made / "share" / "amistream" / "contents.cdx.json", listed)
    _publish(listed, output)
    return made


def _publish(file: Path, output: Path) -> None:
    """Put a finished file in place of an older one."""
    shutil.copy(file, output)
    print(f"{output.name}/{file.name}  {file.stat().st_size / 1e6:.1f} MB", flush=True)
