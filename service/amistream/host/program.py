"""Runs a program of the QEMU project on an open file, on a short leash.

The program gets the file and nothing else of ours: no path that somebody could swap meanwhile, no environment that
could hold a secret. An image made to do harm finds limits of memory, time and output.
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
"""Address space. Guess: ten times what is used on images of 10 GiB."""
CPU_S = 3600
"""CPU time of a whole run; a compressed image of 10 GiB takes a minute."""
PATIENCE_S = 120
"""How long a program may take to answer, or to end. Guess."""
MOST_OUTPUT = 32 * 1024 * 1024
"""Bytes of an answer: a map of 10 GiB in alternating clusters of 64 KiB has 18 MB."""

_LIMITS = f"ulimit -v {MEMORY_KIB} && ulimit -t {CPU_S} && ulimit -f {MOST_OUTPUT // 512} && ulimit -c 0 && "
_RUN = _LIMITS + 'exec "$0" "$@"'
_SERVE = _LIMITS + 'exec 3<&0 0</dev/null && LISTEN_FDS=1 LISTEN_PID=$$ exec "$0" "$@"'
"""As systemd hands a listening socket over: as descriptor 3. It is given as standard input."""
_FIRST_FREE = 10
"""Descriptors below are the shell's and that protocol's to use."""
_NOT_FOUND = (126, 127)
"""What a shell says of a program that it cannot run."""
_LENT = re.compile(r"'?/proc/self/fd/\d+'?")


class ToolMissingError(Exception):
    """The program is not installed."""


class ServerTool:
    """A program that serves the file on a socket to one client, and the connection to it. `end` it.

    It leaves when the client hangs up: a process of ours that dies leaves none behind.
    """

    def __init__(self, program: str, options: list[str], descriptor: int) -> None:
        self._program = program
        self._complaint = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the server
        self.connection = socket.socket(socket.AF_UNIX)
        # Connected before the program is there to accept it: nothing to wait for, and nobody else can come first.
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
                stdin=listener.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=self._complaint,
            )

    def strays(self, descriptor: int) -> bool:
        """Whether it has another file or device open than the one behind `descriptor`."""
        ours = [os.fstat(each) for each in (descriptor, self._complaint.fileno())]
        for link in Path(f"/proc/{self._process.pid}/fd").iterdir():
            try:
                found = link.stat()
            except FileNotFoundError:
                continue  # closed meanwhile
            readable = stat.S_ISREG(found.st_mode) or stat.S_ISBLK(found.st_mode)
            if readable and not any(os.path.samestat(found, each) for each in ours):
                return True
        return False

    def end(self) -> OSError | None:
        """Hang up, upon which it leaves, and say what it complained of, if it did. Raises `ToolMissingError`."""
        with self._complaint:
            self.connection.close()
            try:
                status = self._process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                status = self._process.wait()
            return _failure(self._program, status, self._complaint)


def run_tool(program: str, options: list[str], descriptor: int) -> bytes:
    """Run `program` on the file behind `descriptor` and return what it says.

    Raises `ToolMissingError`, or OSError with what it complains of.
    """
    # Files, not pipes: the limit of a file's size bounds them.
    with tempfile.TemporaryFile() as answer, tempfile.TemporaryFile() as complaint:
        process = _start(_RUN, program, options, descriptor, stdin=subprocess.DEVNULL, stdout=answer, stderr=complaint)
        try:
            status = process.wait(PATIENCE_S)
        except BaseException as error:
            process.kill()
            process.wait()
            if isinstance(error, subprocess.TimeoutExpired):
                raise OSError(f"{program} did not answer within {PATIENCE_S} s") from None
            raise
        if failure := _failure(program, status, complaint):
            raise failure
        answer.seek(0)
        return answer.read()


def _start(
    script: str,
    program: str,
    options: list[str],
    descriptor: int,
    *,
    stdin: int,
    stdout: IO[bytes] | int,
    stderr: IO[bytes],
) -> subprocess.Popen[bytes]:
    lent = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _FIRST_FREE)
    try:
        return subprocess.Popen(
            ["/bin/sh", "-c", script, program, *options, f"/proc/self/fd/{lent}"],
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"},
            pass_fds=(lent,),
            # Ctrl-C is for us: a job that is to end by itself still reads through the server.
            start_new_session=True,
        )
    finally:
        os.close(lent)


def _failure(program: str, status: int, complaint: IO[bytes]) -> OSError | None:
    if status in _NOT_FOUND:
        raise ToolMissingError(program)
    if status == 0:
        return None
    if status == -signal.SIGXFSZ:
        return OSError(f"the answer of {program} has more than {MOST_OUTPUT // 2**20} MiB")
    complaint.seek(0)
    lines = complaint.read(4096).decode(errors="replace").splitlines()
    told = "; ".join(line.removeprefix(f"{program}: ").strip() for line in lines if line.strip())
    return OSError(_LENT.sub("the image", told) or f"{program} ended with status {status}")
