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

_LIMITED = f'ulimit -v {MEMORY_KIB} && ulimit -t {CPU_S} && ulimit -c 0 && exec "$0" "$@"'


class ToolMissingError(Exception):
    """The program is not installed."""


def run_tool(program: str, options: list[str], descriptor: int) -> bytes:
    """Run `program` on the file behind `descriptor` and return what it says, at most `MOST_OUTPUT` and one bytes.

    Raises `ToolMissingError`, or OSError with the last line of its complaint.
    """
    environment = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}
    # Not pipes: a server that stays would keep them open.
    with tempfile.TemporaryFile() as answer, tempfile.TemporaryFile() as complaint:
        try:
            done = subprocess.run(
                ["/bin/sh", "-c", _LIMITED, program, *options, f"/proc/self/fd/{descriptor}"],
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
            raise OSError(_last_words(program, lines) or f"{program} ended with status {done.returncode}")
        answer.seek(0)
        return answer.read(MOST_OUTPUT + 1)


_NOT_FOUND = (126, 127)
"""What a shell says of a program that it cannot run."""


def _last_words(program: str, lines: list[str]) -> str:
    told = [line.removeprefix(f"{program}: ") for line in lines if line.strip()]
    return told[-1] if told else ""
