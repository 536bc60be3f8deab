"""A run of the command, whichever way: what it came to, and the shape of the fixtures that start one."""

from __future__ import annotations

import asyncio
import subprocess
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, Protocol, Self

from support import commands

if TYPE_CHECKING:
    import signal
    from collections.abc import Sequence
    from pathlib import Path


@dataclass
class Outcome:
    status: int
    stdout: str
    stderr: str


class Cli(Protocol):
    async def __call__(self, *words: str) -> Outcome: ...


@dataclass
class Running:
    """A process of the command, whose output is read in the test's loop."""

    process: subprocess.Popen[bytes]
    stdout: asyncio.StreamReader
    stderr: asyncio.StreamReader

    @classmethod
    async def start(cls, words: Sequence[str], *, forked: bool, **options: Any) -> Self:
        begin = commands.Popen[bytes] if forked else subprocess.Popen[bytes]
        process = begin(words, **options)
        return cls(process, await _reader(process.stdout), await _reader(process.stderr))

    def send_signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def communicate(self) -> tuple[bytes, bytes]:
        """Read both streams to their ends."""
        return await asyncio.gather(self.stdout.read(), self.stderr.read())

    async def wait(self) -> int:
        return await asyncio.to_thread(self.process.wait)


async def _reader(pipe: IO[bytes] | None) -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    if pipe is None:
        reader.feed_eof()
    else:
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
    return reader


class Spawn(Protocol):
    """`before` are the words of a program that runs the command, the options those of `subprocess.Popen`."""

    async def __call__(self, *words: str | Path, before: tuple[str, ...] = (), **options: Any) -> Running: ...


async def ended(running: Running) -> Outcome:
    stdout, stderr = await running.communicate()
    return Outcome(await running.wait(), stdout.decode(), stderr.decode())


async def lines_until(stream: asyncio.StreamReader, word: str) -> list[str]:
    """Read lines up to the first that holds `word`."""
    lines: list[str] = []
    while not lines or word not in lines[-1]:
        line = await stream.readline()
        assert line, f"the stream ended before {word!r}: {lines}"
        lines.append(line.decode())
    return lines
