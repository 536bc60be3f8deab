"""Makes an /etc/fstab with which the image boots, out of the one that a tree has. Pure.

The root is named by the image's own UUID. All else that is mounted may be missing where an AMI is launched, so the boot
does not wait for it.
"""

from __future__ import annotations

PATH = b"etc/fstab"
UUID = b"{the UUID of the image's file system"
"""Stands for the UUID, which may follow from the tree itself; as long as its text."""
LARGEST = 1 << 20
"""Bytes of a file that is taken for an fstab."""

_HEAD = b"# Changed by amistream for this image; the earlier one is fstab.old.\n"
_EPHEMERAL = b"/dev/xvdb /mnt auto defaults,nofail 0 0\n"
"""The first disk of an instance store, if an instance has one."""
_KERNELS = frozenset(b"proc sysfs devpts devtmpfs tmpfs cgroup cgroup2 debugfs tracefs securityfs mqueue".split())
_NEEDED = 3
"""Fields of a line: device, mount point and kind, before those that have defaults."""


def mended(old: bytes, kind: str) -> bytes:
    """The fstab for a root of this kind, with `UUID` in place of its UUID; `old` is empty if there is none."""
    lines: list[bytes] = []
    root = b""
    for line in old.splitlines(keepends=True):
        fields = line.split()
        if len(fields) < _NEEDED or fields[0].startswith(b"#"):
            lines.append(line if line.endswith(b"\n") else line + b"\n")
        elif fields[1] == b"/":
            root = root or _root_line(kind, fields)
        else:
            lines.append(line if fields[2] in _KERNELS else _without_waiting(fields))
    if not old.strip():
        lines = [_EPHEMERAL]
    return b"".join([_HEAD, root or _root_line(kind, []), *lines])


def _root_line(kind: str, fields: list[bytes]) -> bytes:
    """Options of another kind of file system mean nothing to this one."""
    has_same = len(fields) > _NEEDED and fields[2][:3] == kind.encode()[:3]
    options = fields[3] if has_same else b"defaults"
    return b"UUID=%s / %s %s 0 1\n" % (UUID, kind.encode(), options)


def _without_waiting(fields: list[bytes]) -> bytes:
    device, point, kind, *rest = fields
    options = rest[0].split(b",") if rest else [b"defaults"]
    if not {b"nofail", b"noauto"} & set(options):
        options.append(b"nofail")
    return b" ".join([device, point, kind, b",".join(options), *(rest[1:] or [b"0", b"0"])]) + b"\n"
