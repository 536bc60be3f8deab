"""Starts amistream's console scripts as processes without the second that each takes to import its modules.

`Popen` and `run` are those of `subprocess`. A script that is installed beside this Python is forked by a helper process
(`fork_server`) that has imported everything; it is a process like any other, with a pid, streams and an exit status.

These differ, and tests of them start the script with `subprocess`:

- Its parent is the helper, `/proc/PID/cmdline` is the helper's, and its memory begins with all that was imported.
- Nothing is loaded at the start: no interrupt meets an import, and no import fails.
- It is killed when the test process ends.

What the interpreter and imports read from the environment is not read again, so each such environment has its helper.
"""

from __future__ import annotations

import atexit
import inspect
import json
import os
import select
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Any, AnyStr

COMMANDS = Path(sys.executable).parent
READ_AT_START = (
    "PYTHON",
    "LC_",
    "LANG",
    "TZ",
    "LD_",
    "MALLOC_",
    "GLIBC_",
    "NO_COLOR",
    "FORCE_COLOR",
    "TYPER_",
    "COVERAGE_",
)
"""Beginnings of the variables that count at the start of a process only."""


class _Helper:
    """A process that forks."""

    def __init__(self, environ: dict[str, str]) -> None:
        self._lock = Lock()
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        program = Path(__file__).with_name("fork_server.py")
        with theirs:
            # -P: the directory of this file holds no modules for it, and the current directory may change.
            self._process = subprocess.Popen(
                [sys.executable, "-P", program, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )
        atexit.register(self._close)

    def _close(self) -> None:
        self._socket.close()
        self._process.wait()

    def ask(self, request: dict[str, Any], descriptors: Sequence[int] = ()) -> Any:
        with self._lock:
            socket.send_fds(self._socket, [json.dumps(request).encode()], descriptors)
            answer = self._socket.recv(1 << 10)
        assert answer, f"the helper ended with status {self._process.wait()}"
        return json.loads(answer)


_helpers: dict[frozenset[tuple[str, str]], _Helper] = {}


def _helper(environ: dict[str, str]) -> _Helper:
    """Get the helper whose interpreter started with this environment, as far as it counts."""
    counting = {name: value for name, value in environ.items() if name.startswith(READ_AT_START)}
    key = frozenset(counting.items())
    if key not in _helpers:
        _helpers[key] = _Helper({"PATH": os.environ["PATH"], **counting})
    return _helpers[key]


class Popen(subprocess.Popen[AnyStr]):
    """Starts a console script as `subprocess.Popen` does, as far as tests ask for it."""

    def _execute_child(self, *plan: Any) -> None:
        start: Any = subprocess.Popen._execute_child  # type: ignore[attr-defined]
        asked = inspect.signature(start).bind(self, *plan).arguments
        assert not any(asked[name] for name in ("preexec_fn", "pass_fds", "shell"))
        environ = dict(os.environ if asked["env"] is None else asked["env"])
        streams = (asked[name] for name in ("p2cread", "c2pwrite", "errwrite"))
        self._helper = _helper(environ)
        self.pid = self._helper.ask(
            {
                "words": [os.fsdecode(word) for word in asked["args"]],
                "directory": os.fspath(asked["cwd"] or Path.cwd()),
                "environ": environ,
                "own_session": asked["start_new_session"],
            },
            [inherited if stream == -1 else stream for inherited, stream in enumerate(streams)],
        )
        self._child_created = True
        pipes = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")
        self._close_pipe_fds(*(asked[name] for name in pipes))  # type: ignore[attr-defined]

    def _internal_poll(self, _deadstate: int | None = None) -> int | None:
        with suppress(subprocess.TimeoutExpired):
            self._wait(timeout=0)  # type: ignore[attr-defined]
        return self.returncode

    def _try_wait(self, wait_flags: int) -> tuple[int, int]:
        """Do the same as `os.waitpid`. The pid stays taken until the end was asked for, as with any child."""
        if not wait_flags & os.WNOHANG:
            ended = os.pidfd_open(self.pid)
            select.select([ended], [], [])
            os.close(ended)
        pid, status = self._helper.ask({"collect": self.pid})
        return pid, status


def run(
    words: Sequence[object], *, forked: bool = True, given: bytes | None = None, timeout: float, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run a console script to its end, with `given` as its stdin."""
    start = Popen[bytes] if forked else subprocess.Popen[bytes]
    stdin = subprocess.DEVNULL if given is None else subprocess.PIPE
    line = [*map(str, words)]
    with start(line, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options) as process:
        try:
            stdout, stderr = process.communicate(given, timeout)
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(line, process.returncode, stdout.decode(), stderr.decode())
