"""The file system that a tree is on."""

from __future__ import annotations

from pathlib import Path

import pytest

from amistream.host.mount_table import Mount
from amistream.source.tree.origin import Origin, find_origin

DISKS = sorted(each for each in Path("/sys/class/block").iterdir() if int((each / "size").read_text()))


def mount_of_kind(kind: str, source: bytes) -> Mount:
    return Mount(number=1, device="0:99", root=b"/", point=b"/mnt", kind=kind, source=source, writable=True)


@pytest.mark.skipif(not DISKS, reason="no disk here")
def test_source_that_is_any_word() -> None:
    """The source of a mount without a disk is what whoever mounts it says: that disk is not looked at."""
    disk = b"/dev/" + DISKS[0].name.encode()
    for kind in ("fuse", "fuse.sshfs", "tmpfs", "overlay", "nfs"):
        assert find_origin(mount_of_kind(kind, disk)) == Origin(kind=kind)
    assert find_origin(mount_of_kind("btrfs", disk)).size > 0
