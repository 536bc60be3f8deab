"""Packages of the tree that Debian has published anew: it repairs a vulnerability by a new version of the package."""

from __future__ import annotations

import subprocess

from config.dist import debian, lock
from config.dist.project import ARCHITECTURES, BuildError


def report() -> None:
    """Raise `BuildError` with every package of the lock that has a newer version in Debian's archive."""
    outdated = []
    for architecture in ARCHITECTURES.values():
        with debian.apt(architecture.debian) as archive:
            for each in lock.debian_packages(architecture.debian):
                newest = archive.described(each.name).version
                if _is_later(newest, each.version):
                    outdated.append(f"  {each.name} {each.version} ({each.architecture}): Debian has {newest}")
    if outdated:
        raise BuildError(
            "the lock of `make dist` has packages that Debian has published anew, with corrections:\n"
            + "\n".join(outdated)
            + "\nmake dist-lock, then build and publish again"
        )
    print("Debian has no newer version of any package that `make dist` packs")


def _is_later(version: str, than: str) -> bool:
    return subprocess.run(["dpkg", "--compare-versions", version, "gt", than], check=False).returncode == 0
