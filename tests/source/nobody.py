"""Runs a part of a test as an unprivileged user, because root may read everything."""

from __future__ import annotations

import codecs
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NOBODY = 65534


@contextmanager
def open_folder() -> Iterator[Path]:
    """Create a folder that other users may enter, unlike pytest's own."""
    folder = Path(tempfile.mkdtemp(prefix="amistream-test-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@contextmanager
def as_nobody() -> Iterator[None]:
    """Drop root's rights for a while; without root nothing is dropped."""
    if os.geteuid() != 0:
        yield
        return
    for name in ("ascii", "utf-16-le"):
        codecs.lookup(name)  # read from a file that nobody else may read
    groups = os.getgroups()
    os.setgroups([])
    os.setegid(NOBODY)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)
