"""A run of the command, whichever way: what it came to, and the shape of the fixtures that start one."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from pathlib import Path


@dataclass
class Outcome:
    status: int
    stdout: str
    stderr: str


class Cli(Protocol):
    async def __call__(self, *words: str) -> Outcome: ...


class Spawn(Protocol):
    """`before` are the words of a program that runs the command, the options those of asyncio's subprocesses."""

    async def __call__(
        self, *words: str | Path, before: tuple[str, ...] = (), **options: Any
    ) -> asyncio.subprocess.Process: ...


async def ended(process: asyncio.subprocess.Process) -> Outcome:
    stdout, stderr = await process.communicate()
    assert process.returncode is not None
    return Outcome(process.returncode, (stdout or b"").decode(), (stderr or b"").decode())


async def lines_until(stream: asyncio.StreamReader | None, word: str) -> list[str]:
    """Read lines up to the first that holds `word`."""
    assert stream is not None
    lines: list[str] = []
    while not lines or word not in lines[-1]:
        line = await stream.readline()
        assert line, f"the stream ended before {word!r}: {lines}"
        lines.append(line.decode())
    return lines
