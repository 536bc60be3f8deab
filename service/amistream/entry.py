"""Where the commands begin: whoever changes their mind while a command is still being loaded gets no traceback."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn


def client() -> NoReturn:
    with _interruptible():
        from amistream.cli.main import add_command, main  # noqa: PLC0415 - loading takes the time
    # What follows the old command's name is the old command's.
    add_command("compat", "amistream.compat.command:compat", allow_extra_args=True, allow_interspersed_args=False)
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
