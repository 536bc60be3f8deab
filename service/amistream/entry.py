"""Where the commands begin: whoever changes their mind while a command is still being loaded gets no traceback."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn


def client() -> NoReturn:
    with _interruptible():
        from amistream.cli.main import app, main  # noqa: PLC0415 - loading takes the time
        from amistream.compat.command import add_to  # noqa: PLC0415
    add_to(app)
    main()


def daemon() -> NoReturn:
    with _interruptible():
        from amistream.daemon.main import main  # noqa: PLC0415
    sys.exit(main())


def old_command() -> NoReturn:
    """A command of the older tools; the name under which it was called says which."""
    with _interruptible():
        from amistream.compat.main import main  # noqa: PLC0415
    main()


@contextmanager
def _interruptible() -> Iterator[None]:
    """An interrupt ends the process at once, unless whoever started it had interrupts ignored."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    yield
    if before is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.default_int_handler)
