"""The logging of the process, restored after a test that configures it."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import structlog

from amistream import log


@pytest.fixture
def restored_log() -> Iterator[None]:
    """Restore the process's logging."""
    root, own = logging.getLogger(), logging.getLogger(log.OWN_LOGGERS)
    before = root.handlers[:], root.level, own.level
    yield
    root.handlers[:], root_level, own_level = before
    root.setLevel(root_level)
    own.setLevel(own_level)
    structlog.reset_defaults()
