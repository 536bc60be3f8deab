"""Writes the metrics to a file for node_exporter: each minute, at each end of a job, and once more at the end.

The file is replaced whole, so that a reader never finds half of it, and every user can read it. A file that cannot be
written is reported in the log once, and stops nothing.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import structlog

from amistream.flow.gather import task_group

PERIOD_S = 60.0

LOG: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


@asynccontextmanager
async def writing_textfile(path: Path, text: Callable[[], bytes], changed: asyncio.Event) -> AsyncIterator[None]:
    """Write `text()` to `path` while the block runs, at least each minute and whenever `changed` is set."""
    trouble = ""

    async def write() -> None:
        nonlocal trouble
        before = trouble
        try:
            await asyncio.to_thread(replace_file, path, text())
            trouble = ""
        except OSError as error:
            trouble = error.strerror or repr(error)
        if trouble and trouble != before:
            LOG.warning("metrics.textfile", path=str(path), reason=trouble, hint="see docs/monitoring.md")

    is_over = False

    async def keep_writing() -> None:
        while True:
            changed.clear()
            is_last = is_over
            await write()
            if is_last:
                return
            with suppress(TimeoutError):
                await asyncio.wait_for(changed.wait(), PERIOD_S)

    async with task_group() as group:
        group.create_task(keep_writing(), name="textfile")
        yield
        is_over = True
        changed.set()


def replace_file(path: Path, content: bytes) -> None:
    """Put a file with mode 0644 in the place of `path`. Raises OSError."""
    # node_exporter reads names that end with .prom only, so not this one.
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            os.fchmod(file.fileno(), 0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
