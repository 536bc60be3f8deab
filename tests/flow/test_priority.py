"""Standing back: only the thread that asks for it."""

from __future__ import annotations

import os
import subprocess
import threading

from amistream.flow.priority import yield_to_others


def test_only_the_calling_thread_stands_back() -> None:
    """The thread gets the priority and the idle disk class; the others keep theirs."""
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
