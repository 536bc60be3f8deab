"""The parts of the machine, and of the job, that a walk through a tree has to know. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

_KERNELS = """autofs binfmt_misc bpf cgroup cgroup2 configfs debugfs devpts devtmpfs efivarfs fusectl hugetlbfs mqueue
    nsfs proc pstore ramfs rpc_pipefs securityfs selinuxfs sysfs tmpfs tracefs"""
NEVER_CROSSED = frozenset(_KERNELS.split())
"""File systems of the kernel, and in memory."""
MADE_FOR_THE_READER = NEVER_CROSSED - {"tmpfs", "ramfs"}
"""Their files are made when they are looked at, of what the kernel and other processes have, for him who looks."""
_REMOTE = "9p afs ceph cifs coda glusterfs lustre ncpfs nfs nfs4 ocfs2 orangefs smb3 smbfs"
_SERVERS = frozenset(_REMOTE.split())


class StoppedError(Exception):
    """The walk, or the copy of what it found, was stopped."""


def waits_for_others(kind: str) -> bool:
    """True for a file system whose answers come from another machine, or from a program."""
    return kind in _SERVERS or kind == "fuse" or kind.startswith("fuse.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """The parts of the machine that a walk has to know."""

    mounts: dict[bytes, str] = field(default_factory=dict)
    """Mount points below the tree's root, without a slash in front, and the kind of what is mounted there."""
    same: Collection[int] = ()
    """Numbers of the mounts that belong to the tree's own file system."""
    remote: Collection[bytes] = ()
    """The mount points of file servers that are not crossed: looking at one may wait for ever."""
    cross: bool = False
    """Take other file systems in, but for those of the kernel."""
    own: Collection[tuple[int, int]] = ()
    """Device and inode of files and directories that never come in: keys, the state directory, swap files."""
    own_names: re.Pattern[bytes] | None = None
    """The paths of the job's own output."""
    privileged: bool = True
    """The kernel lets this process read everything."""
    replaced: Mapping[bytes, Callable[[bytes], bytes]] = field(default_factory=dict)
    """Files with another content in the image, made from their own, which stays beside it as NAME.old."""
