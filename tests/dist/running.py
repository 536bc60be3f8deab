"""Words that the tests of the installations share."""

from __future__ import annotations

import os
import re

from config.dist.project import version

TREE = f"/srv/amistream-{version()}"
LIBRARY = re.compile(r"\.so(\.[\d.]+)?$")


def cpu_seconds(*words: str) -> float:
    """CPU time of a program from its start to its end, its children included."""
    process = os.posix_spawn(
        words[0], words, os.environ, file_actions=[(os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0)]
    )
    _, status, used = os.wait4(process, 0)
    assert status == 0
    return used.ru_utime + used.ru_stime
