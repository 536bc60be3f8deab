"""The process that `support.commands` starts, with the descriptor of a socket: it forks amistream's console scripts.

A request is one packet: a JSON document, with the descriptors of stdin, stdout and stderr. Each gets one packet back.
The process ends when the socket closes, and all processes that it forked are killed then.

It has imported all of amistream, but it starts no thread and keeps no file open, so that its child is like a process
that has just imported what it needs.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import io
import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from importlib.metadata import distribution
from pathlib import PurePath
from pkgutil import walk_packages
from typing import Any, NoReturn

import amistream
from amistream.aws import sdk

LARGEST_PACKET = 1 << 20
PR_SET_PDEATHSIG, PR_SET_NAME = 1, 15


def import_scripts() -> dict[str, Callable[[], int]]:
    """Import all of amistream, and return the function of each of its console scripts."""
    for module in walk_packages(amistream.__path__, "amistream."):
        if not module.name.endswith("__main__"):
            import_module(module.name)
    # The SDK's service models, which each process reads once, are a fifth of a second.
    sdk._loader()
    return {script.name: script.load() for script in distribution("amistream").entry_points}


def serve(requests: socket.socket) -> str:
    """Fork on request. Return only in a child, with the name of the script that it is to run."""
    on_interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        packet, descriptors, _, _ = socket.recv_fds(requests, LARGEST_PACKET, 3)
        if not packet:
            os._exit(0)
        request = json.loads(packet)
        if "collect" in request:
            answer: object = os.waitpid(request["collect"], os.WNOHANG)
        elif answer := os.fork():
            for descriptor in descriptors:
                os.close(descriptor)
        else:
            signal.signal(signal.SIGINT, on_interrupt)
            requests.close()
            return become(request, descriptors)
        requests.sendall(json.dumps(answer).encode())


def become(request: dict[str, Any], descriptors: list[int]) -> str:
    """Take over what distinguishes a process: its session, streams, directory, environment and words."""
    name = PurePath(request["words"][0]).name
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    libc.prctl(PR_SET_NAME, name.encode())
    if request["own_session"]:
        os.setsid()
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
        os.close(descriptor)
    for stream, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        reopen(stream, mode)
    os.chdir(request["directory"])
    # Python sets LC_CTYPE in the C locale, and the locale is the same.
    kept = {name: os.environ[name] for name in ("LC_CTYPE",) if name in os.environ}
    os.environ.clear()
    os.environ.update(request["environ"] | kept)
    sys.argv[:] = request["words"]
    return name


def reopen(name: str, mode: str) -> None:
    """Open a standard stream anew as the interpreter does: its buffering depends on what the descriptor is now."""
    before: io.TextIOWrapper = getattr(sys, name)
    number, at_once = before.fileno(), before.write_through
    now = io.TextIOWrapper(
        open(number, f"{mode}b", buffering=0 if at_once else -1, closefd=False),  # noqa: SIM115 - never closed
        encoding=before.encoding,
        errors=before.errors,
        newline="\n",
        line_buffering=name == "stderr" or os.isatty(number),
        write_through=at_once,
    )
    setattr(sys, name, now)
    setattr(sys, f"__{name}__", now)


def run(script: Callable[[], int]) -> NoReturn:
    """Run a script, and end as the interpreter does, but for clearing its modules, which would copy all their pages."""
    try:
        sys.exit(script())
    except SystemExit as end:
        if end.code is not None and not isinstance(end.code, int):
            raise
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        with suppress(OSError):  # as the interpreter reports it
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(end.code or 0)
        raise


if __name__ == "__main__":
    gc.disable()
    scripts = import_scripts()
    # Pages stay shared: a collection would write to each object.
    gc.freeze()
    gc.enable()
    run(scripts[serve(socket.socket(fileno=int(sys.argv[1])))])
