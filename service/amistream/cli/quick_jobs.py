"""Answers `jobs` and `status` without the library of commands, which takes longer to load than the daemon to answer.

A call is answered here if its arguments are plain and the daemon's answer is good. For every other call, and for all
errors, the command itself is loaded; both give the same output for the same answer of the daemon.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from amistream.cli.answers import Listing, list_of_jobs, one_job
from amistream.cli.daemon_socket import socket_path
from amistream.cli.job_table import MOST, SHOWN
from amistream.cli.output import visible
from amistream.cli.terminal import folded, width_of

_OPTIONS = {
    "jobs": {"--state": True, "--label": True, "--limit": True, "--all": False, "--json": False, "--socket": True},
    "status": {"--json": False, "--socket": True},
}
"""The options that are understood here, and whether each takes a value."""


def answer(arguments: list[str]) -> str | None:
    """The whole output of a call of `jobs` or `status`, or None."""
    command, *rest = arguments
    parsed = _parsed(rest, _OPTIONS[command])
    if parsed is None or os.environ.get("AMISTREAM_CONFIG"):
        return None
    words, options = parsed
    named = options.get("--socket") or os.environ.get("AMISTREAM_SOCKET")
    address = socket_path(Path(named) if named else None, None)
    as_json = "--json" in options
    text = None
    if command == "jobs" and not words:
        limit = options.get("--limit", str(SHOWN))
        if not limit.isdecimal() or not 0 < int(limit) <= MOST:
            return None
        most = None if "--all" in options else int(limit)
        asked = Listing(options.get("--state"), options.get("--label"), most)
        text = list_of_jobs(address, asked, as_json=as_json)
    elif command == "status" and len(words) == 1:
        text = one_job(address, words[0], as_json=as_json)
    return None if text is None else f"{folded(visible(text), width_of(sys.stdout))}\n"


def _parsed(arguments: list[str], known: dict[str, bool]) -> tuple[list[str], dict[str, str]] | None:
    """The words and the options among the arguments; None if another option, or an empty value, is there."""
    words: list[str] = []
    options: dict[str, str] = {}
    rest = iter(arguments)
    for argument in rest:
        name, equals, value = argument.partition("=")
        if not argument.startswith("-"):
            words.append(argument)
            continue
        if name not in known or (equals and not known[name]):
            return None
        if known[name] and not equals:
            value = next(rest, "")
        if known[name] and (not value or value.startswith("-")):
            return None
        options[name] = value
    return words, options
