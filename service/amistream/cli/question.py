"""Asks the person at the terminal."""

from __future__ import annotations

import asyncio
import sys

from amistream.cli.output import put_note
from amistream.errors import UnconfirmedError


async def confirm(question: str, *, yes: bool, what: str, look: str = "with --dry-run") -> None:
    """Ask the person at the terminal, unless `yes`. Raises `RefusedError` without a terminal or a yes.

    `look` is the way to see before what will be done.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise UnconfirmedError(
            "unconfirmed",
            f"cannot {what} without a confirmation: there is no terminal to ask on",
            hint=f"check {look}, then give --yes",
        )
    put_note(f"{question} [y/N]")
    if (await line_from_stdin()).strip().lower() not in {"y", "yes"}:
        raise UnconfirmedError("unconfirmed", f"cannot {what}: the answer was no", hint="nothing was changed")


async def line_from_stdin() -> str:
    """Read the next line of standard input once there is one, so that Ctrl-C works while a person thinks."""
    loop, ready = asyncio.get_running_loop(), asyncio.Event()
    try:
        loop.add_reader(sys.stdin.fileno(), ready.set)
    except PermissionError:
        return sys.stdin.readline()  # a file is always ready, and epoll takes none
    try:
        await ready.wait()
    finally:
        loop.remove_reader(sys.stdin.fileno())
    return sys.stdin.readline()
