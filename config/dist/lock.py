"""The lock: the version and digest of every package that is put into an installation, or builds one.

`lock/debian.txt` has Debian's packages of both architectures, `lock/wheels.txt` the wheels in pip's form, and
`lock/tools.txt` the programs that build. `make dist-lock` writes all three anew from the newest versions.
"""

from __future__ import annotations

from config.dist import debian, wheels
from config.dist.debian import DebianPackage
from config.dist.project import ARCHITECTURES, LOCK, BuildError, pyproject
from config.dist.wheels import Wheel

WHEELS = LOCK / "wheels.txt"
TOOLS = LOCK / "tools.txt"
_DEBIAN = LOCK / "debian.txt"
_HEAD = "# Made by `make dist-lock`; not edited by hand.\n"


def write() -> None:
    """Resolve everything anew, and write the lock."""
    LOCK.mkdir(exist_ok=True)
    found: list[DebianPackage] = []
    for architecture in ARCHITECTURES.values():
        with debian.apt(architecture.debian) as archive:
            found += [archive.described(name) for name in debian.PACKAGES]
    columns = "# architecture name version SHA-256 source source-version\n"
    rows = [
        f"{each.architecture} {each.name} {each.version} {each.sha256} {each.source} {each.source_version}"
        for each in sorted(found, key=lambda each: (each.architecture, each.name))
    ]
    needed = wheels.requirements()
    texts = {
        _DEBIAN: _HEAD + columns + "\n".join(rows) + "\n",
        WHEELS: _HEAD + _pins([wheels.resolve(needed, each) for each in ARCHITECTURES.values()]),
        TOOLS: _HEAD + _pins([wheels.resolve(pyproject()["project"]["optional-dependencies"]["dist"], None)]),
    }
    for path, text in texts.items():
        path.write_text(text)


def _pins(resolved: list[list[Wheel]]) -> str:
    """The wheels in pip's form, each with its digests for all architectures."""
    digests: dict[tuple[str, str], set[str]] = {}
    for each in (wheel for found in resolved for wheel in found):
        digests.setdefault((each.name, each.version), set()).add(each.sha256)
    if len({name for name, _ in digests}) != len(digests):
        raise BuildError("cannot lock the wheels: the architectures have different versions of one")
    return "".join(
        f"{name}=={version}" + "".join(f" \\\n    --hash=sha256:{each}" for each in sorted(found)) + "\n"
        for (name, version), found in sorted(digests.items())
    )


def debian_packages(architecture: str) -> list[DebianPackage]:
    """Debian's packages of the lock for an architecture."""
    lines = [line.split() for line in _DEBIAN.read_text().splitlines() if not line.startswith("#")]
    found = [DebianPackage(name, architecture, *rest) for of, name, *rest in lines if of == architecture]
    if [each.name for each in found] != sorted(debian.PACKAGES):
        raise BuildError(
            "cannot use the lock: it has other packages of Debian than config/dist/debian.py; make dist-lock"
        )
    return found
