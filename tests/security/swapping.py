"""Programs that swap names in a loop as fast as they can, beside the code they attack."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path

LINK = """
import os, sys
name, *targets = sys.argv[1:]
made = f"{name}.{os.getpid()}"
print("swapping", flush=True)
while True:
    for target in targets:
        os.symlink(target, made)
        os.rename(made, name)
"""
"""NAME TARGET...: NAME is a symbolic link to each target in turn, and never missing."""

EXCHANGE = """
import ctypes, sys
first, second = (name.encode() for name in sys.argv[1:])
libc = ctypes.CDLL(None)
print("swapping", flush=True)
while True:
    libc.renameat2(-100, first, -100, second, 2)
"""
"""FIRST SECOND: the two names, of files or directories, are exchanged atomically."""

HARD_LINK = """
import os, sys
name, target = sys.argv[1:]
ghost = name + " (deleted)"
print("swapping", flush=True)
while True:
    os.link(target, name)
    os.unlink(name)
    os.link(target, ghost)
    os.unlink(ghost)
"""
"""NAME TARGET: NAME is a hard link to TARGET, then missing, then named like a deleted file in /proc."""

PATIENCE = 100


def attempts(least: int, answers: Collection[str]) -> Iterator[int]:
    """Number the attempts: at least `least`, and more until `answers` holds two, one for each state of the name.

    On a busy machine the swapping program may pause for thousands of attempts. After a hundred times `least` the
    attempts end, and the test reports its findings.
    """
    for number in count():
        if number >= least and (len(answers) > 1 or number >= PATIENCE * least):
            return
        yield number


@contextmanager
def swapping(program: str, *arguments: Path, user: Sequence[str] = ()) -> Iterator[None]:
    """Run one of the programs until the block ends; `user`: options of setpriv to run it as another user."""
    prefix = ["setpriv", *user, "--"] if user else []
    # Not the interpreter's name in the virtual environment, which another user may not reach.
    python = os.path.realpath(sys.executable)
    process = subprocess.Popen(
        [*prefix, python, "-I", "-c", program, *map(str, arguments)], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL
    )
    assert process.stdout is not None
    with process.stdout:
        try:
            assert process.stdout.readline() == b"swapping\n"
            yield
            assert process.poll() is None, "the program that swaps has ended"
        finally:
            process.kill()
            process.wait()
