"""Runs the program of a profile's `credential_process` for the SDK, within bounds of time and output.

The program gets no standard input, since that may be the volume. Its output goes to the SDK only and its error messages
nowhere, because both may hold keys.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from subprocess import DEVNULL, PIPE

from amistream.aws.translate import ProviderError

MOST_OUTPUT = 64 * 1024
"""Bytes. Guess: credentials with a long session token have 2 KiB."""


@dataclass(frozen=True, slots=True)
class EndedProgram:
    """The part of a subprocess that the SDK uses."""

    output: bytes
    returncode: int = 0

    async def communicate(self) -> tuple[bytes, bytes]:
        return self.output, b""


async def run_credential_process(*command: str, **_: int) -> EndedProgram:
    """Run the command to its end, in place of `asyncio.create_subprocess_exec`; a cancel kills it.

    Raises `ProviderError`.
    """
    if not command or not command[0]:
        raise ProviderError(said="its command is empty")
    # A variable before the program, as for a shell, is taken for the program, and may be a secret.
    program = re.sub(r"(?s)=.*", "=[...]", command[0])
    try:
        process = await asyncio.create_subprocess_exec(*command, stdin=DEVNULL, stdout=PIPE, stderr=DEVNULL)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", "") or str(error)
        raise ProviderError(said=f"its program {program} cannot be started: {why}") from None
    try:
        output = await _read(process)
        if output is None:
            raise ProviderError(said=f"its program {program} prints more than {MOST_OUTPUT // 1024} KiB")
        status = await process.wait()
    finally:
        if process.returncode is None:
            _kill_all_below(process.pid)
        # Ends a program that still runs, and lets go of a pipe that a child of it may hold.
        process._transport.close()  # type: ignore[attr-defined]  # noqa: SLF001 - nothing public does
    if status:
        raise ProviderError(said=f"its program {program} ended with status {status}")
    return EndedProgram(output)


def _kill_all_below(pid: int) -> None:
    """Kill what the program has started; its process group is ours, for programs that ask at the terminal."""
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in map(int, (task / "children").read_text().split()):
                _kill_all_below(child)
                os.kill(child, signal.SIGKILL)


async def _read(process: asyncio.subprocess.Process) -> bytes | None:
    """All that the program prints, or None if that is too much."""
    pipe, pieces, size = process.stdout, [], 0
    while pipe and (piece := await pipe.read(MOST_OUTPUT)):
        pieces.append(piece)
        size += len(piece)
        if size > MOST_OUTPUT:
            return None
    return b"".join(pieces)
