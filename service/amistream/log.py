"""Logging: one line per event, to stderr, as JSON for machines or text for people.

Modules log through `structlog.get_logger(__name__)`. Values bound with `structlog.contextvars` (a job's id) appear in
every line of that task. Stdlib loggers (aiohttp, botocore, asyncio) use the same handler, from WARNING up.

No secret reaches a line: foreign loggers stay at WARNING whatever their level, since the SDK's debug lines hold
signatures and tokens; tracebacks are written without local variables, since those hold keys.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

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
    handler = logging.StreamHandler(sys.stderr)
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
