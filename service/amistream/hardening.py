"""What a process does about itself before it holds a secret: nobody looks in, and nothing of it is left on the disk."""

from __future__ import annotations

import ctypes
import os
import resource

_PR_SET_DUMPABLE = 4
_OWNER_ONLY = 0o077


def keep_secrets_in() -> None:
    """No core dump, whatever kills it, and no debugger or reader of its memory that is not root.

    Once in a process, by its entry point. Children inherit the first only.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Also for core dumps that go to a program, which heeds no limit. A kernel that refuses has nothing to dump.
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def make_files_private() -> None:
    """What the process creates from now on is its own user's alone, unless it says otherwise."""
    os.umask(_OWNER_ONLY)
