"""Scheduling priority: only the calling thread changes, and only in the given respect."""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import subprocess
import threading

import pytest

from amistream.flow.priority import wake_promptly, yield_to_others

SCHED_GETATTR = {"x86_64": 315, "aarch64": 275}


def test_only_the_calling_thread_stands_back() -> None:
    """The thread gets the priority and the idle disk class; other threads keep theirs."""
    mine = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    seen: list[tuple[int, str]] = []

    def work() -> None:
        yield_to_others(7)
        number = threading.get_native_id()
        disk = subprocess.run(["ionice", "-p", str(number)], capture_output=True, text=True, check=True).stdout
        seen.append((os.getpriority(os.PRIO_PROCESS, number), disk.strip()))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(7, "idle")]
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == mine


def time_slice() -> int:
    """Nanoseconds of the calling thread's time slice; -1 when the kernel does not show it."""
    attributes = ctypes.create_string_buffer(56)
    if ctypes.CDLL(None).syscall(SCHED_GETATTR[platform.machine()], 0, attributes, 56, 0) != 0:
        return -1
    return int(struct.unpack_from("=IIQiIQ", attributes)[5])


@pytest.mark.skipif(platform.machine() not in SCHED_GETATTR, reason="only asked for on the machines it is known for")
def test_only_the_calling_thread_is_woken_promptly() -> None:
    """The thread gets shorter slices at its own priority; threads that it starts have the usual ones."""
    seen: dict[str, tuple[int, int]] = {}

    def look(name: str) -> None:
        seen[name] = time_slice(), os.getpriority(os.PRIO_PROCESS, 0)

    def work() -> None:
        look("before")
        wake_promptly()
        look("after")
        child = threading.Thread(target=look, args=("child",))
        child.start()
        child.join()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    (usual, nice), (asked, still_nice) = seen["before"], seen["after"]
    assert still_nice == nice
    assert seen["child"] == seen["before"]
    if asked == usual:
        pytest.skip("the kernel gives every thread the same slices")
    assert asked == 100_000
