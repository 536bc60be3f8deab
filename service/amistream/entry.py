"""Entry points of the commands. An interrupt while a command is still loading ends it without a traceback."""

from __future__ import annotations

import atexit
import gc
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

COMPAT = ("compat", "amistream.compat.command:compat")
"""The command that calls one of an older tool, and its function."""
COMPAT_CONTEXT: dict[str, Any] = {"allow_extra_args": True, "allow_interspersed_args": False}
"""The words after the old command's name are parsed by that command."""

_COLLECT_AFTER = 100_000
"""New objects after which a command looks for garbage. Its modules are up to 100,000 objects, and no garbage."""


def client() -> NoReturn:
    _open_standard_files()
    _leave_out_plugins()
    _collect_less()
    with _interruptible():
        from amistream.cli.quick import answer  # noqa: PLC0415 - an interrupt must work while it loads

        _put(answer(sys.argv[1:]))
        from amistream.cli.main import add_command, main  # noqa: PLC0415
    add_command(*COMPAT, **COMPAT_CONTEXT)
    main()


def daemon() -> NoReturn:
    _open_standard_files()
    _leave_out_plugins()
    with _interruptible():
        from amistream.daemon.main import main  # noqa: PLC0415
    sys.exit(main())


def old_command() -> NoReturn:
    """A command of the older tools, chosen by the name under which it was called."""
    _open_standard_files()
    _leave_out_plugins()
    _collect_less()
    with _interruptible():
        from amistream.compat.main import main  # noqa: PLC0415
    main()


def _open_standard_files() -> None:
    """Open the null device in place of each standard file that is closed.

    Otherwise the next file that is opened, such as the journal, takes its number, and messages are written there.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            # Gets the lowest free number, which is that of the closed file.
            descriptor = os.open(os.devnull, os.O_RDWR)
            os.set_inheritable(descriptor, True)
            setattr(sys, name, open(descriptor, mode, encoding="utf-8", closefd=False))  # noqa: SIM115 - until the end


def _leave_out_plugins() -> None:
    """Keep pydantic from looking for plugins among all installed packages, which takes longer than its models."""
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")


def _collect_less() -> None:
    """Look for garbage less often while modules are loaded, and not at the end: that takes a sixth of a small job."""
    gc.set_threshold(_COLLECT_AFTER)
    atexit.register(gc.freeze)


def _put(text: str | None) -> None:
    """Write the whole output of a call, and end the process. The command itself reports that it cannot be written."""
    if text is None:
        return
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError:
        return
    sys.exit()


@contextmanager
def _interruptible() -> Iterator[None]:
    """End the process at once on an interrupt, unless the parent process started it with interrupts ignored."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    yield
    if before is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.default_int_handler)
