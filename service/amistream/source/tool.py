"""Runs a program of the QEMU project on an open file, on a short leash.

The program gets the file and nothing else of ours: no path that somebody could swap, no environment that could hold a
secret. An image made to do harm finds limits of memory, time and output.
"""

from __future__ import annotations

import os
import subprocess
import tempfile

MEMORY_KIB = 2 * 1024 * 1024
"""Address space. Guess: ten times what is used on images of 10 GiB."""
CPU_S = 3600
"""CPU time of a whole run; a compressed image of 10 GiB takes a minute."""
PATIENCE_S = 120
"""How long a program may take to answer, or to begin to serve. Guess."""
MOST_OUTPUT = 128 * 1024 * 1024
"""Bytes of an answer: a map of 10 GiB in alternating clusters of 64 KiB has 18 MB."""

_LIMITED = (
    f'ulimit -v {MEMORY_KIB} && ulimit -t {CPU_S} && ulimit -f {MOST_OUTPUT // 512} && ulimit -c 0 && exec "$0" "$@"'
)
_NOT_FOUND = (126, 127)
"""What a shell says of a program that it cannot run."""


class ToolMissingError(Exception):
    """The program is not installed."""


def path_of(descriptor: int) -> str:
    """The path by which a program that was handed an open file opens that very file."""
    return f"/proc/self/fd/{descriptor}"


def run_tool(program: str, options: list[str], descriptor: int) -> bytes:
    """Run `program` on the file behind `descriptor` and return what it says.

    Raises `ToolMissingError`, or OSError with what it complains of.
    """
    environment = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}
    # Not pipes: a server that stays would keep them open.
    with tempfile.TemporaryFile() as answer, tempfile.TemporaryFile() as complaint:
        try:
            done = subprocess.run(
                ["/bin/sh", "-c", _LIMITED, program, *options, path_of(descriptor)],
                stdin=subprocess.DEVNULL,
                stdout=answer,
                stderr=complaint,
                env=environment,
                pass_fds=(descriptor,),
                timeout=PATIENCE_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise OSError(f"{program} did not answer within {PATIENCE_S} s") from None
        if done.returncode in _NOT_FOUND:
            raise ToolMissingError(program)
        if done.returncode != 0:
            complaint.seek(0)
            lines = complaint.read(4096).decode(errors="replace").splitlines()
            told = "; ".join(line.removeprefix(f"{program}: ").strip() for line in lines if line.strip())
            raise OSError(told or f"{program} ended with status {done.returncode}")
        answer.seek(0)
        return answer.read()
