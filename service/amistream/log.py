"""Logging: one line per event, to stderr, as JSON for machines or text for people.

Modules log through `structlog.get_logger(__name__)`. Values bound with `structlog.contextvars` (a job's id) appear in
every line of that task. Stdlib loggers (aiohttp, botocore, asyncio) use the same handler, from WARNING up.

No secret reaches a line: foreign loggers stay at WARNING whatever their level, since the SDK's debug lines hold
signatures and tokens; tracebacks are written without local variables, since those hold keys.

Where stderr goes to the journal of systemd, each line begins with its priority, as sd-daemon(3) has it, which the
journal takes off: `journalctl -p warning` finds warnings.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO, cast

# structlog loads rich for tracebacks, which are written plainly here: a twentieth of a second in each command.
_no_rich = sys.modules.setdefault("rich", cast("ModuleType", None)) is None
import structlog  # noqa: E402

if _no_rich:
    del sys.modules["rich"]

from amistream.settings import LogFormat  # noqa: E402

if TYPE_CHECKING:
    from types import ModuleType

    from structlog.typing import EventDict, Processor

_keepers: list[Callable[[str, EventDict], None]] = []
_PRIORITIES = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}
"""Of syslog(3), by level."""
OWN_LOGGERS = "amistream"
"""The root of the loggers that follow the configured level; `get_logger(__name__)` names one below it."""


def configure(level: str, log_format: LogFormat) -> None:
    """Send all lines to stderr in `log_format`, those of this package from `level` up. May be called again."""
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[
            *shared,
            _keep,
            structlog.stdlib.filter_by_level,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        # A cached logger would keep the processors of an earlier call.
        cache_logger_on_first_use=False,
    )
    handler = _Handler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_rendering(log_format)],
        )
    )
    handler.addFilter(_is_shown)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger(OWN_LOGGERS).setLevel(level.upper())


class _Handler(logging.StreamHandler[TextIO]):
    """Writes each line of a record with its priority, if the journal of systemd reads it."""

    def format(self, record: logging.LogRecord) -> str:
        return for_journal(super().format(record), record.levelno)


def for_journal(text: str, level: int = logging.ERROR) -> str:
    """Put the priority of a level before each line of a text for stderr, if the journal of systemd reads it."""
    if not _journal_reads_stderr():
        return text
    mark = f"<{_PRIORITIES.get(level, _PRIORITIES[logging.INFO])}>"
    return "\n".join(mark + line for line in text.split("\n"))


def _journal_reads_stderr() -> bool:
    """True if stderr is the stream that systemd named: a program between may have put another in its place."""
    named = os.environ.get("JOURNAL_STREAM")
    if not named:
        return False
    try:
        about = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError):
        return False
    return named == f"{about.st_dev}:{about.st_ino}"


@contextmanager
def kept_by(keep: Callable[[str, EventDict], None]) -> Iterator[None]:
    """Give `keep` each line from level info up that is about a job, with its id, whatever level is shown.

    It is called on any thread, while the block runs.
    """
    _keepers.append(keep)
    try:
        yield
    finally:
        _keepers.remove(keep)


def _keep(logger: object, name: str, entry: EventDict) -> EventDict:
    if _keepers and "job" in entry and name != "debug":
        plain = structlog.processors.format_exc_info(logger, name, dict(entry))
        for keep in _keepers:
            keep(entry["job"], plain)
    return entry


def _is_shown(record: logging.LogRecord) -> bool:
    """Select the lines, and leave out the SDK's tracebacks: each is of an error that is reported where it matters."""
    root = record.name.partition(".")[0]
    if root in {"aiobotocore", "botocore"}:
        record.exc_info = None
    return record.levelno >= logging.WARNING or root == OWN_LOGGERS


def _rendering(log_format: LogFormat) -> list[Processor]:
    is_terminal = sys.stderr.isatty()
    if log_format is LogFormat.TEXT or (log_format is LogFormat.AUTO and is_terminal):
        # The default formatter of tracebacks is rich's, which prints local variables.
        return [structlog.dev.ConsoleRenderer(colors=is_terminal, exception_formatter=structlog.dev.plain_traceback)]
    return [
        structlog.processors.format_exc_info,
        _in_order,
        structlog.processors.JSONRenderer(default=str),
    ]


def _in_order(_: object, __: str, entry: EventDict) -> EventDict:
    """The names that every line has come first."""
    first = {name: entry.pop(name) for name in ("timestamp", "level", "event", "job") if name in entry}
    return {**first, **entry}
