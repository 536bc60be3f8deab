"""Runs one program on a writable view of a directory that stays as it is (`scripted` starts it, on Linux, as root).

    python script_guard.py PARENT SPACE POINT PROGRAM DIRECTORY...

PARENT is the descriptor of a socket. The view is an overlay mount of the DIRECTORYs, the uppermost first; its changes
go to a file system of SPACE bytes in memory, mounted on POINT. All of that is in namespaces of this process alone, for
mounts and for processes. So nothing is left when it dies of whatever, or its parent does: the kernel ends all processes
of the program, and frees mounts and memory. The answer on the socket is a word and a number: `mount ERRNO`, `run
ERRNO`, `full 0` or `status STATUS`; the last two bring a descriptor of the directory with the changes.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

_NEW_MOUNTS, _NEW_PROCESSES = 0x00020000, 0x20000000
_RECURSIVE, _SLAVE = 0x4000, 1 << 19
_DIE_WITH_PARENT = 1
_OPTIONS = ("redirect_dir=off,index=off,metacopy=off", "redirect_dir=off", "")
"""Off is what the walk understands. Kernels that do not know an option do as if it were off."""
_ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LANG": "C"}
"""The parent's own may have credentials."""
_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _mount(kind: bytes, point: bytes, options: bytes, flags: int = 0) -> None:
    _check(_libc.mount(b"amistream", point, kind, ctypes.c_ulong(flags), options))


def _die_with_parent() -> None:
    _check(_libc.prctl(_DIE_WITH_PARENT, signal.SIGKILL, 0, 0, 0))


def _make_view(space: int, point: Path, directories: Sequence[Path]) -> tuple[Path, int]:
    """Mount the view; returns its path, and the open directory of the changes. Raises OSError."""
    # Nothing that is mounted here is seen elsewhere; what is unmounted elsewhere goes here, too.
    _mount(b"none", b"/", b"", _RECURSIVE | _SLAVE)
    # Opened before POINT is covered, which may lie above one of them.
    lower = [os.open(each, os.O_PATH | os.O_DIRECTORY) for each in directories]
    about = directories[-1].stat()
    _mount(b"tmpfs", os.fsencode(point), b"mode=700,size=%d" % space)
    changes, work, view = (point / name for name in ("changes", "work", "tree"))
    for folder in (changes, work, view):
        folder.mkdir()
    # The root of the view is that of the changes: it begins as the tree's own.
    os.chown(changes, about.st_uid, about.st_gid)
    changes.chmod(stat.S_IMODE(about.st_mode))
    os.utime(changes, ns=(about.st_atime_ns, about.st_mtime_ns))
    below = b":".join(b"/proc/self/fd/%d" % each for each in lower)
    places = b"lowerdir=%s,upperdir=%s,workdir=%s" % (below, _escaped(changes), _escaped(work))
    for number, options in enumerate(_OPTIONS):
        try:
            _mount(b"overlay", os.fsencode(view), b",".join(filter(None, (places, options.encode()))))
            break
        except OSError:
            if number == len(_OPTIONS) - 1:
                raise
    for each in lower:
        os.close(each)
    return view, os.open(changes, os.O_RDONLY | os.O_DIRECTORY)


def _escaped(path: Path) -> bytes:
    return os.fsencode(path).replace(b"\\", b"\\\\").replace(b",", b"\\,").replace(b":", b"\\:")


def _serve(parent: socket.socket, space: int, point: Path, program: str, directories: Sequence[Path]) -> None:
    try:
        view, changes = _make_view(space, point, directories)
    except OSError as error:
        parent.send(b"mount %d" % (error.errno or 0))
        return
    os.umask(0o022)
    try:
        done = subprocess.run([program, view], stdin=subprocess.DEVNULL, cwd="/", env=_ENVIRONMENT, check=False)
    except OSError as error:
        parent.send(b"run %d" % (error.errno or 0))
        return
    full = os.fstatvfs(changes).f_bfree == 0
    socket.send_fds(parent, [b"full 0" if full else b"status %d" % done.returncode], [changes])


def main(argv: Sequence[str]) -> None:
    number, space, point, program, *directories = argv
    parent = socket.socket(fileno=int(number))
    _die_with_parent()
    if select.select([parent], [], [], 0)[0]:
        return  # the parent is gone already
    try:
        _check(_libc.unshare(_NEW_MOUNTS | _NEW_PROCESSES))
    except OSError as error:
        parent.send(b"mount %d" % (error.errno or 0))
        return
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        # The first process of its namespace: with it all others end.
        os.close(theirs)
        _die_with_parent()
        if not select.select([ours], [], [], 0)[0]:
            _serve(parent, int(space), Path(point), program, list(map(Path, directories)))
        os._exit(0)
    os.waitpid(child, 0)


if __name__ == "__main__":
    main(sys.argv[1:])
