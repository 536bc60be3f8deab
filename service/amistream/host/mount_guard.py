"""Mounts the file system in an open file where nobody else sees it (`mounted_image` starts it, on Linux, as root).

    python mount_guard.py PARENT IMAGE POINT KIND OPTIONS

PARENT is the descriptor of a socket, IMAGE that of the file, POINT any directory. The mount is in a namespace of this
process alone, on a loop device that goes with its last user. So nothing is left when this process dies of whatever, or
its parent does. The answers on the socket are a word and a number: `mounted 0`, with the open root directory; then,
once the parent has sent a word, `unmounted 0`; or instead of each `loop ERRNO`, `mount ERRNO` or `unmount ERRNO`.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import select
import signal
import socket
import stat
import struct
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

_NEW_MOUNTS = 0x00020000
_RECURSIVE, _PRIVATE = 0x4000, 1 << 18
_NO_ATIME = 1 << 10
_DETACH = 2
_PLACE = Path("/image")
_DIE_WITH_PARENT = 1
_GET_FREE, _SET_FILE, _CLEAR_FILE, _SET_STATUS, _CONFIGURE = 0x4C82, 0x4C00, 0x4C01, 0x4C04, 0x4C0A
_AUTOCLEAR = 4
_STATUS = struct.Struct("<52xI176x")
"""`struct loop_info64` of linux/loop.h: the flags alone."""
_TRIES = 100
_PAUSE_S = 0.05
"""Guess: a program that another thread of the parent starts has its copy of a descriptor for milliseconds."""
_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def attach(image: int) -> int:
    """Show a file as a loop device that goes with its last user; returns the open device. Raises OSError."""
    control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
    try:
        for _ in range(_TRIES):
            path = f"/dev/loop{fcntl.ioctl(control, _GET_FREE)}"
            # Only for reading: some kernels mount no device that is open for writing, too.
            device = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                # For udev: a device that is locked is not looked at, so no link in /dev/disk leads to this copy.
                fcntl.flock(device, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _bind(path, image)
            except OSError as error:
                os.close(device)
                if error.errno not in (errno.EBUSY, errno.EWOULDBLOCK):
                    raise  # else another process was faster
                time.sleep(_PAUSE_S)
            else:
                return device
    finally:
        os.close(control)
    raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))


def _bind(path: str, image: int) -> None:
    status = _STATUS.pack(_AUTOCLEAR)
    device = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.ioctl(device, _CONFIGURE, struct.pack("<II", image, 0) + status + bytes(64))
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTTY):
            raise
        # Before Linux 5.8 it takes two steps.
        fcntl.ioctl(device, _SET_FILE, image)
        try:
            fcntl.ioctl(device, _SET_STATUS, status)
        except OSError:
            fcntl.ioctl(device, _CLEAR_FILE)
            raise
    finally:
        os.close(device)


def _mount(device: int, point: bytes, kind: bytes, options: bytes) -> None:
    """Mount the device on `_PLACE`, in a namespace that has nothing else."""
    number = os.fstat(device).st_rdev
    _check(_libc.unshare(_NEW_MOUNTS))
    _check(_libc.mount(b"none", b"/", b"none", ctypes.c_ulong(_RECURSIVE | _PRIVATE), None))
    _check(_libc.mount(b"amistream", point, b"tmpfs", ctypes.c_ulong(0), b"mode=700,size=64k"))
    os.chdir(point)
    _leave_all_others()
    os.mknod(b"/device", stat.S_IFBLK | 0o600, number)
    _PLACE.mkdir()
    _check(_libc.mount(b"/device", bytes(_PLACE), kind, ctypes.c_ulong(_NO_ATIME), options))


def _leave_all_others() -> None:
    """Make the working directory the root. Without its copies of all mounts this process keeps none of them busy."""
    try:
        _check(_libc.pivot_root(b".", b"."))
        _check(_libc.umount2(b".", _DETACH))
    except OSError:
        os.chroot(".")  # in an initramfs, whose root stays
    os.chdir("/")


def _unmount() -> None:
    for number in range(_TRIES):
        try:
            _check(_libc.umount2(bytes(_PLACE), 0))
        except OSError as error:
            if error.errno != errno.EBUSY or number == _TRIES - 1:
                raise
            time.sleep(_PAUSE_S)
        else:
            return


def main(argv: Sequence[str]) -> None:
    parent, image = socket.socket(fileno=int(argv[0])), int(argv[1])
    point, kind, options = (os.fsencode(each) for each in argv[2:])
    _check(_libc.prctl(_DIE_WITH_PARENT, signal.SIGKILL, 0, 0, 0))
    if select.select([parent], [], [], 0)[0]:
        return  # the parent is gone already
    step = b"loop"
    try:
        device = attach(image)
        step = b"mount"
        _mount(device, point, kind, options)
        root = os.open(_PLACE, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        socket.send_fds(parent, [b"mounted 0"], [root])
        os.close(root)
        step = b"unmount"
        if parent.recv(1):
            _unmount()
            os.close(device)
            parent.send(b"unmounted 0")
    except OSError as error:
        with suppress(OSError):
            parent.send(b"%s %d" % (step, error.errno or 0))


if __name__ == "__main__":
    main(sys.argv[1:])
