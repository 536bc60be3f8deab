"""Packs a tree into a .tar.xz that is the same, byte for byte, at each build."""

from __future__ import annotations

import lzma
import tarfile
from pathlib import Path

from config.dist.project import epoch


def pack(tree: Path, target: Path) -> None:
    """Pack the tree below its own name, in order, owned by root, with the time stamp of the build."""
    with (
        lzma.open(target, "wb", check=lzma.CHECK_CRC64, preset=6) as packed,
        tarfile.open(fileobj=packed, mode="w|", format=tarfile.USTAR_FORMAT) as archive,
    ):
        for path in (tree, *sorted(tree.rglob("*"))):
            archive.add(path, f"{tree.name}/{path.relative_to(tree)}".rstrip("/."), recursive=False, filter=_settled)


def _settled(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = "root"
    member.mtime = epoch()
    if member.issym():
        member.mode = 0o777
    return member
