"""Runs a user's script on a view of a directory, and keeps what it changed in memory. The directory stays as it is.

The mounts and processes are those of another process (`script_guard`) with namespaces of its own, so none is left in
whatever way this process or that one ends. The calls block.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from time import monotonic

from amistream.errors import RefusedError
from amistream.host import script_guard
from amistream.host.guard import guarded, receive
from amistream.units import size_text
from amistream.values import quoted

_POLL_S = 0.2
"""Between two looks for a cancel."""
_LAST_WORDS = 2048
"""Bytes that are kept of what a script writes to its standard error."""
_LINES_SHOWN = 5
_FIELD = "script"


class ScriptStoppedError(Exception):
    """Nobody waits for the script any more."""


def run_script(
    script: Path,
    directories: Sequence[Path],
    *,
    point: Path,
    space: int,
    limit_s: float,
    stopped: Callable[[], bool],
) -> int:
    """Run `script` on a view of the directories, the uppermost first; returns the open directory of its changes.

    They are in a file system of `space` bytes that is mounted on `point` for the script alone, and gone once the
    descriptor is closed. Raises `RefusedError`, also for a script that fails or takes longer than `limit_s` seconds,
    and `ScriptStoppedError`.
    """
    if not os.access(script, os.X_OK) or not script.is_file():
        raise RefusedError(
            "script.unusable",
            f"cannot run the script {script}: it is missing, or no program",
            hint=f"ls -l {quoted(script)}; chmod +x {quoted(script)}",
            field=_FIELD,
        )
    # The guard's end is also that of the script's processes: they have a namespace that ends with it.
    with guarded(script_guard, space, point, script, *directories, stderr=subprocess.PIPE) as (process, guard):
        words = _wait(process, script, limit_s, stopped)
        answer, changes = receive(guard)
    try:
        _check(script, answer, words, space)
    except BaseException:
        if changes is not None:
            os.close(changes)
        raise
    assert changes is not None  # noqa: S101 - for the type checker: it comes with a status
    return changes


def _wait(process: subprocess.Popen[bytes], script: Path, limit_s: float, stopped: Callable[[], bool]) -> str:
    """Wait until the guard has ended; returns the last words on its standard error."""
    end = monotonic() + limit_s
    assert process.stderr is not None  # noqa: S101 - for the type checker
    words = b""
    while True:
        if stopped():
            raise ScriptStoppedError
        if monotonic() > end:
            raise RefusedError(
                "script.timeout",
                f"cannot use what {script} changes: it was ended after {limit_s:g} s, the longest that it may take",
                hint="set script_timeout_s to more, or find what it waits for: it has no input and no terminal",
                field=_FIELD,
            )
        # Asked before the look: nothing of the script comes later. Its end alone counts, because it may have given the
        # pipe to a process that stays, such as a service.
        ended = process.poll() is not None
        if select.select([process.stderr], [], [], 0 if ended else _POLL_S)[0]:
            more = os.read(process.stderr.fileno(), 1 << 16)
            words = (words + more)[-_LAST_WORDS:]
            if not more:
                process.wait()
                ended = True
        if ended:
            return words.decode("utf-8", "backslashreplace")


def _check(script: Path, answer: str, words: str, space: int) -> None:
    """Raise `RefusedError` unless the script ended well."""
    said = "".join(f"\n{line}" for line in words.splitlines()[-_LINES_SHOWN:])
    said = "".join(each if each.isprintable() or each == "\n" else "?" for each in said)
    match answer.split():
        case ["status", "0"]:
            return
        case ["status", status]:
            number = int(status)
            how = f"it ended with status {number}" if number > 0 else f"it was ended by {_signal_name(-number)}"
            code, hint = "script.failed", "its last words:" + said if said else "it wrote nothing to its standard error"
        case ["full", _]:
            how = f"its changes fill the {size_text(space)} that they may have"
            code, hint = "script.space", "set script_space to more; the changes are kept in memory"
        case ["mount", error]:
            how = f"the view of the directory cannot be mounted: {os.strerror(int(error))}"
            code = "script.refused"
            hint = "run the job as root, with --in-process: the daemon's unit may not mount anything"
        case ["run", error]:
            how = os.strerror(int(error))
            code, hint = "script.unusable", "its first line must name a program, such as #!/bin/sh"
        case _:
            how, code, hint = "its guard was ended", "script.failed", "free memory, and try again" + said
    raise RefusedError(code, f"cannot use what {script} changes: {how}", hint=hint, field=_FIELD)


def _signal_name(number: int) -> str:
    """The signal's name; most real-time signals have none."""
    return next((each.name for each in signal.Signals if each == number), f"signal {number}")
