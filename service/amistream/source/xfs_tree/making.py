"""Has mkfs.xfs make a file system in an open file of this process. The calls block."""

from __future__ import annotations

import os
import re
import shutil
from uuid import UUID

from amistream.host.program import ToolMissingError, run_tool
from amistream.source.xfs_tree.features import LONGEST_LABEL, Format, Version, options

_PROGRAM = "mkfs.xfs"
_PLACES = "/usr/sbin:/sbin"
"""Not always in the PATH of a job that cron starts."""
_VERSION = re.compile(rb"version (\d+)\.(\d+)")


def find_program() -> str | None:
    """The path of mkfs.xfs."""
    return shutil.which(_PROGRAM) or shutil.which(_PROGRAM, path=_PLACES)


def make_file_system(image: int, size: int, like: Format, *, uuid: UUID, label: bytes) -> None:
    """Make a file system of `size` bytes. Raises OSError with the program's words, `ToolMissingError`."""
    program = find_program()
    if program is None:
        raise ToolMissingError(_PROGRAM)
    os.ftruncate(image, size)
    words = options(like, _version(program, image), uuid, label[:LONGEST_LABEL])
    run_tool(program, words, image, most_written=size)


def _version(program: str, image: int) -> Version:
    found = _VERSION.search(run_tool(program, ["-V"], image))
    return (int(found[1]), int(found[2])) if found else (0, 0)
