"""Translates the system's errors of writing an image."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from amistream.errors import JobError

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def write_errors(name: str) -> Iterator[None]:
    """Raise `JobError` for an OSError: writing to the target `name` had begun."""
    try:
        yield
    except OSError as error:
        if error.errno in NO_ROOM:
            raise JobError(
                "target.full",
                f"cannot write {name}: {error.strerror}",
                hint=f"free some space: df -h {Path(name).parent}; nothing of the image is left behind",
                field="destination",
            ) from error
        raise JobError("target.failed", f"cannot write {name}: {error.strerror}", field="destination") from error
