"""Forks daemons from one process that has the modules loaded: `python -m benchmarks.fleet_hosts DIRECTORY COUNT`.

Each has a socket, a state directory and a log in the directory of its own number, and shares the memory of the modules.
A line is printed when all answer. The end of standard input ends them, so they never outlive who started this process.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages
from typing import NoReturn

import amistream
from amistream.aws import sdk
from benchmarks.timing import BenchmarkError

PATIENCE_S = 120.0


def main(arguments: Sequence[str]) -> None:
    directory, count = Path(arguments[0]), int(arguments[1])
    # Pages stay shared: a collection would write to each object.
    gc.disable()
    for module in walk_packages(amistream.__path__, "amistream."):
        if not module.name.endswith("__main__"):
            import_module(module.name)
    # The SDK's service models, which each process reads once.
    sdk._loader()  # noqa: SLF001 - so that the daemons share them
    gc.freeze()
    gc.enable()
    hosts = []
    for number in range(count):
        home = directory / str(number)
        home.mkdir(parents=True)
        if not (pid := os.fork()):
            _become_daemon(home)
        hosts.append(pid)
    try:
        for number in range(count):
            _wait_socket(directory / str(number) / "socket")
        print("ready", flush=True)
        sys.stdin.read()
    finally:
        for pid in hosts:
            os.kill(pid, signal.SIGKILL)
        for pid in hosts:
            os.waitpid(pid, 0)


def _become_daemon(home: Path) -> NoReturn:
    log = os.open(home / "log", os.O_WRONLY | os.O_CREAT, 0o600)
    null = os.open(os.devnull, os.O_RDONLY)
    for number, file in ((0, null), (1, log), (2, log)):
        os.dup2(file, number)
    sys.argv[:] = ["amistreamd", "--socket", str(home / "socket"), "--state-dir", str(home / "state")]
    from amistream.daemon.main import main as daemon  # noqa: PLC0415 - loaded already, and its name is too general

    status = 1
    try:
        status = daemon()
    finally:
        os._exit(status)


def _wait_socket(path: Path) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        with socket.socket(socket.AF_UNIX) as connection:
            try:
                connection.connect(str(path))
            except OSError:
                if time.monotonic() > deadline:
                    raise BenchmarkError(f"the daemon at {path} does not answer") from None
                time.sleep(0.05)
            else:
                return


if __name__ == "__main__":
    main(sys.argv[1:])
