"""Runs a program on an open file, with tight limits.

The program gets only the file: no path that could be swapped, and no environment that could contain a secret. Memory,
time and output are limited, in case the file is made to do harm.
"""

from __future__ import annotations

import fcntl
import os
import re
import signal
import socket
import stat
import subprocess
import tempfile
from pathlib import Path
from typing import IO

MEMORY_KIB = 2 * 1024 * 1024
"""Address space. Guess: ten times the use on images of 10 GiB."""
CPU_S = 3600
"""CPU time of a whole run; a compressed image of 10 GiB takes a minute."""
PATIENCE_S = 120
"""Time for a program to answer, or to end. Guess."""
MOST_OUTPUT = 32 * 1024 * 1024
"""Bytes of an answer: a map of 10 GiB in alternating clusters of 64 KiB has 18 MB."""

_LIMITS = f"ulimit -v {MEMORY_KIB} && ulimit -t {CPU_S} && ulimit -c 0 && ulimit -f "
_RUN = ' && exec "$0" "$@"'
_SERVE = f"{_LIMITS}{MOST_OUTPUT // 512}" + ' && exec 3<&0 0</dev/null && LISTEN_FDS=1 LISTEN_PID=$$ exec "$0" "$@"'
"""Passes the listening socket, given as standard input, as descriptor 3, as systemd does."""
_FIRST_FREE = 10
"""Lower descriptors are used by the shell and that protocol."""
_NOT_FOUND = (126, 127)
"""Exit statuses of a shell for a program that it cannot run."""
_LENT = re.compile(r"'?[\w=.,]*/proc/self/fd/\d+'?")
"""The file in a program's message, and what was put before its path."""


class ToolMissingError(Exception):
    """The program is not installed."""


class ServerTool:
    """A program that serves the file on a socket to one client, and the connection to it. Call `end` afterwards.

    The program ends when the client hangs up, so it does not outlive this process.
    """

    def __init__(self, program: str, options: list[str], descriptor: int, *, before: str = "") -> None:
        """`before` is put before the file's path, in the last argument."""
        self._program = program
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the server
        self.connection = socket.socket(socket.AF_UNIX)
        # Connected before the program starts: no waiting, and no other client can be first.
        with socket.socket(socket.AF_UNIX) as listener, tempfile.TemporaryDirectory(prefix="amistream-") as folder:
            path = str(Path(folder) / "socket")
            listener.bind(path)
            listener.listen(1)
            self.connection.connect(path)
            self._process = _start(
                _SERVE,
                program,
                options,
                descriptor,
                before,
                stdin=listener.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=self._errors,
            )

    def strays(self, descriptor: int) -> bool:
        """True if the program has opened another file or device than that of `descriptor`."""
        ours = [os.fstat(each) for each in (descriptor, self._errors.fileno())]
        for link in Path(f"/proc/{self._process.pid}/fd").iterdir():
            try:
                found = link.stat()
            except FileNotFoundError:
                continue  # closed in the meantime
            readable = stat.S_ISREG(found.st_mode) or stat.S_ISBLK(found.st_mode)
            if readable and not any(os.path.samestat(found, each) for each in ours):
                return True
        return False

    def end(self) -> OSError | None:
        """Hang up, which ends the program; returns its error, if any. Raises `ToolMissingError`."""
        with self._errors:
            self.connection.close()
            try:
                status = self._process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                status = self._process.wait()
            return _failure(self._program, status, self._errors)


def run_tool(
    program: str, options: list[str], descriptor: int, *, before: str = "", most_written: int = MOST_OUTPUT
) -> bytes:
    """Run `program` on the file of `descriptor` and return its output; `before` is put before the file's path.

    It writes to no file, that one included, behind byte `most_written`. Raises `ToolMissingError`, or OSError with the
    program's error message.
    """
    script = f"{_LIMITS}{-(-most_written // 512)}{_RUN}"
    # Files, not pipes: the limit of file sizes bounds them.
    with tempfile.TemporaryFile() as answer, tempfile.TemporaryFile() as errors:
        process = _start(
            script, program, options, descriptor, before, stdin=subprocess.DEVNULL, stdout=answer, stderr=errors
        )
        try:
            status = process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            raise OSError(f"{program} did not answer within {PATIENCE_S} s") from None
        finally:
            process.kill()  # if it has not ended
            process.wait()
        if failure := _failure(program, status, errors):
            raise failure
        answer.seek(0)
        return answer.read()


def _start(
    script: str,
    program: str,
    options: list[str],
    descriptor: int,
    before: str,
    *,
    stdin: int,
    stdout: IO[bytes] | int,
    stderr: IO[bytes],
) -> subprocess.Popen[bytes]:
    lent = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _FIRST_FREE)
    try:
        return subprocess.Popen(
            ["/bin/sh", "-c", script, program, *options, f"{before}/proc/self/fd/{lent}"],
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"},
            pass_fds=(lent,),
            # Ctrl-C is for this process: a job that ends by itself still reads through the server.
            start_new_session=True,
        )
    finally:
        os.close(lent)


def _failure(program: str, status: int, errors: IO[bytes]) -> OSError | None:
    if status in _NOT_FOUND:
        raise ToolMissingError(program)
    if status == 0:
        return None
    if status == -signal.SIGXFSZ:
        return OSError(f"the answer of {program} has more than {MOST_OUTPUT // 2**20} MiB")
    errors.seek(0)
    lines = errors.read(4096).decode(errors="replace").splitlines()
    message = "; ".join(line.removeprefix(f"{program}: ").strip() for line in lines if line.strip())
    return OSError(_LENT.sub("the image", message) or f"{program} ended with status {status}")
