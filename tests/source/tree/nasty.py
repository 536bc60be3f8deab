"""A small tree with one of everything that a file system can hold, and a comparison of two trees."""

from __future__ import annotations

import hashlib
import os
import random
import socket
import stat
import struct
from contextlib import suppress
from pathlib import Path
from typing import Any

KIB, MIB, GIB = 1024, 1024**2, 1024**3
YEAR_1939, YEAR_2112 = -968_000_000, 4_500_000_000
ACL_ACCESS, ACL_DEFAULT = "system.posix_acl_access", "system.posix_acl_default"
CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)
ODD_NAMES = (
    b"with space",
    b"new\nline",
    b"\xff\xfe not utf-8",
    b"gl*b[a-z]?",
    b"-dash",
    b"\xc3\xa4\xc3\xb6",
    b"n" * 255,
)


def acl(*entries: tuple[int, int, int]) -> bytes:
    """An ACL in the kernel's form: tag, permissions, id."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


NAMED_USER = acl(
    (1, 6, 0xFFFFFFFF), (2, 4, 1234), (4, 4, 0xFFFFFFFF), (8, 5, 99), (16, 7, 0xFFFFFFFF), (32, 0, 0xFFFFFFFF)
)


def make_nasty_tree(root: Path, *, names: int = 3_000, seed: int = 1, longest_link: int = 4094) -> None:
    """Fill a directory. As root everything is made, otherwise what the user may make."""
    chance = random.Random(seed)
    _files(root / "files", chance)
    _links(root / "links", longest_link)
    _attributes(root / "attributes")
    _directories(root, names)
    _special(root / "special")
    odd = root / "odd"
    odd.mkdir()
    for name in ODD_NAMES:
        Path(os.fsdecode(os.path.join(os.fsencode(odd), name))).write_bytes(name)  # noqa: PTH118 - bytes
    for number, when in enumerate((YEAR_1939, 0, YEAR_2112)):
        path = root / f"time{number}"
        path.write_text("old and new")
        os.utime(path, ns=(0, when * 1_000_000_000 + 123_456_789))
    if os.geteuid() == 0:
        for number, (mode, owner) in enumerate(((0o4755, 0), (0o2755, 70_000), (0o1777, 4_000_000_000))):
            path = root / f"mode{number}"
            path.write_text("x")
            os.chown(path, owner, owner)
            path.chmod(mode)
        os.chown(root, 12, 34)
    root.chmod(0o751)
    os.utime(root, ns=(0, 1_600_000_000_987_654_321))


def _files(folder: Path, chance: random.Random) -> None:
    folder.mkdir()
    for size in (0, 1, 59, 60, 4095, 4096, 4097, 12 * 4096, 12 * 4096 + 1, 2 * MIB + 7):
        (folder / f"size{size}").write_bytes(chance.randbytes(size))
    (folder / ".hidden").write_text("dot")
    with (folder / "sparse").open("wb") as file:
        file.truncate(5 * GIB)
        for offset in (0, 40 * KIB, 5 * MIB, 4 * GIB + 4096, 5 * GIB - 10):
            file.seek(offset)
            file.write(chance.randbytes(10))
    with (folder / "hole").open("wb") as file:
        file.truncate(100 * GIB)
    with (folder / "fragments").open("wb") as file:
        for number in range(900):
            file.seek(number * 8 * KIB)
            file.write(bytes([number % 255 + 1]) * 100)


def _links(folder: Path, longest: int) -> None:
    folder.mkdir()
    (folder / "one").write_text("linked")
    for name in ("two", "three"):
        (folder / name).hardlink_to(folder / "one")
    for length in (1, 59, 60, longest):
        (folder / f"symbolic{length}").symlink_to("t" * length)
    os.link(folder / "symbolic60", folder / "symbolic_twin", follow_symlinks=False)
    (folder / "outside").symlink_to("/etc")


def _attributes(folder: Path) -> None:
    folder.mkdir()
    for name in ("user", "many", "large", "acl", "capability", "trusted"):
        (folder / name).write_text(name)
    os.setxattr(folder / "user", "user.short", b"1")
    os.setxattr(folder / "user", "user.empty", b"")
    for number in range(20):
        os.setxattr(folder / "many", f"user.name{number}", b"v" * number * 7)
    os.setxattr(folder / "large", "user.large", b"l" * 3_900)
    for number in range(3):
        (folder / f"same{number}").write_text("same")
        os.setxattr(folder / f"same{number}", "user.shared", b"s" * 500)
    with suppress(OSError):  # a file system without ACLs
        os.setxattr(folder / "acl", ACL_ACCESS, NAMED_USER)
        os.setxattr(folder, ACL_DEFAULT, NAMED_USER)
    if os.geteuid() == 0:
        os.setxattr(folder / "capability", "security.capability", CAPABILITY)
        os.setxattr(folder / "capability", "security.selinux", b"system_u:object_r:bin_t:s0\0")
        os.setxattr(folder / "trusted", "trusted.secret", b"root's")
        (folder / "link").symlink_to("x")
        os.setxattr(folder / "link", "security.selinux", b"system_u:object_r:lnk_t:s0\0", follow_symlinks=False)


def _directories(root: Path, names: int) -> None:
    many = root / "many"
    many.mkdir()
    for number in range(names):
        (many / f"entry-{number:06d}-{'x' * (number % 60)}").touch()
    (root / "empty").mkdir(mode=0o1777)
    (root / "empty").chmod(0o1777)
    (root / "deep").mkdir()
    here = os.open(root / "deep", os.O_RDONLY)
    for _ in range(25):
        os.mkdir("d" * 200, dir_fd=here)
        below = os.open("d" * 200, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    file = os.open("bottom", os.O_CREAT | os.O_WRONLY, dir_fd=here)
    os.write(file, b"deeper than a path can name")
    os.close(file)
    os.close(here)


def _special(folder: Path) -> None:
    folder.mkdir()
    os.mkfifo(folder / "fifo")
    with socket.socket(socket.AF_UNIX) as server:
        here = Path.cwd()
        os.chdir(folder)  # the path of a socket has at most 107 bytes
        server.bind("socket")
        os.chdir(here)
    if os.geteuid() == 0:
        for name, kind, device in (
            ("null", stat.S_IFCHR, (1, 3)),
            ("loop", stat.S_IFBLK, (7, 0)),
            ("large", stat.S_IFBLK, (259, 70_000)),
        ):
            os.mknod(folder / name, kind | 0o640, os.makedev(*device))
        (folder / "null_twin").hardlink_to(folder / "null")


def described(root: Path, *, fine: bool = True) -> dict[bytes, Any]:
    """Everything that must survive, by path. Without `fine` times are those that 32 bits hold."""
    found: dict[bytes, Any] = {}
    twins: dict[tuple[int, int], bytes] = {}
    waiting = [(os.open(root, os.O_RDONLY), b"")]
    found[b""] = _about(os.fstat(waiting[0][0]), f"/proc/self/fd/{waiting[0][0]}", fine=fine, follow=True)
    while waiting:
        here, path = waiting.pop()
        for name in sorted(entry.name for entry in os.scandir(here)):
            about = os.stat(name, dir_fd=here, follow_symlinks=False)
            inside = path + b"/" + os.fsencode(name)
            place = f"/proc/self/fd/{here}/{name}"
            entry = _about(about, place, fine=fine, follow=False)
            if not stat.S_ISDIR(about.st_mode):
                entry["first name"] = twins.setdefault((about.st_dev, about.st_ino), inside)
            found[inside] = entry
            if stat.S_ISDIR(about.st_mode):
                waiting.append((os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=here), inside))
        os.close(here)
    return found


def _about(about: os.stat_result, place: str, *, fine: bool, follow: bool) -> dict[str, Any]:
    kind = stat.S_IFMT(about.st_mode)
    mtime = about.st_mtime_ns
    if not fine:
        mtime = min(mtime // 1_000_000_000, 2**31 - 1)
    entry: dict[str, Any] = {"mode": oct(about.st_mode), "owner": (about.st_uid, about.st_gid), "mtime": mtime}
    names = [each for each in os.listxattr(place, follow_symlinks=follow) if "SGI_ACL" not in each]  # xfs: ACLs again
    entry["xattrs"] = {name: os.getxattr(place, name, follow_symlinks=follow) for name in names}
    if kind == stat.S_IFREG:
        entry["size"] = about.st_size
        entry["content"] = _content(place, about.st_size)
    if kind == stat.S_IFLNK:
        entry["target"] = str(Path(place).readlink())
    if kind in (stat.S_IFCHR, stat.S_IFBLK):
        entry["device"] = about.st_rdev
    if kind != stat.S_IFDIR:
        entry["links"] = about.st_nlink
    return entry


def _content(place: str, size: int) -> str:
    """A digest of a file's bytes that are not zero, and of where they are."""
    digest = hashlib.sha1(usedforsecurity=False)
    descriptor = os.open(place, os.O_RDONLY)
    at = behind = 0
    while at < size:
        try:
            at = os.lseek(descriptor, at, os.SEEK_DATA)
        except OSError:
            break
        end = os.lseek(descriptor, at, os.SEEK_HOLE)
        for start in range(max(at // 4096 * 4096, behind), end, 4096):
            behind = start + 4096
            page = os.pread(descriptor, 4096, start)
            if any(page):
                digest.update(start.to_bytes(8, "little") + page)
        at = end
    os.close(descriptor)
    return digest.hexdigest()
