"""Runs work in the command's own process: event loop, signals, progress and questions.

Imported only by a call of a command that needs it.
"""

from __future__ import annotations

import asyncio
import json
import signal
import threading
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

import uvloop

from amistream import log
from amistream.aws.session import Aws
from amistream.bundles.meter import Meter, Note
from amistream.cli.meter_screen import metered
from amistream.cli.output import put_note
from amistream.cli.showing import Showing
from amistream.errors import EXIT_INTERRUPTED, AmistreamError
from amistream.jobs.bundle_progress import BundleMeter
from amistream.process import STOP_SIGNALS, settle_memory
from amistream.settings import LogFormat, Settings
from amistream.values import AccessKeys

if TYPE_CHECKING:
    from amistream.bundles.session import BundleSession

_T = TypeVar("_T")
_Session = TypeVar("_Session", bound="BundleSession")


class InterruptedHereError(AmistreamError):
    """A signal ended the work, which has cleaned up. Nobody's fault."""

    exit_status = EXIT_INTERRUPTED


def run(work: Callable[[], Awaitable[_T]], *, after_interrupt: str = "") -> _T:
    """Run `work` to its end; SIGINT, SIGTERM and SIGHUP cancel it.

    `after_interrupt` is the hint of the error that reports it. Raises `AmistreamError`.
    """
    settle_memory()
    # A warning would repeat, across the progress bar, what the result says.
    log.configure("error", LogFormat.TEXT)

    async def run_cancellable() -> _T:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - for the type checker
        asked = False

        def stop() -> None:
            nonlocal asked
            put_note("still tidying up; this takes a moment" if asked else "stopping")
            if not asked:
                task.cancel()
            asked = True

        on_signals(stop, task.cancel)
        return await work()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            return runner.run(run_cancellable())
        except (asyncio.CancelledError, KeyboardInterrupt):
            raise InterruptedHereError("interrupted", "cannot finish: interrupted", hint=after_interrupt) from None


def on_signals(stop: Callable[[], object], hang_up: Callable[[], object]) -> None:
    """Call `stop` on SIGINT and SIGTERM, and `hang_up`, which writes nothing, when the terminal is closed."""
    # Signals come to the main thread; a test may run a command on another.
    if threading.current_thread() is not threading.main_thread():
        return
    loop = asyncio.get_running_loop()
    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, stop)
    # Under nohup(1) the work continues.
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        loop.add_signal_handler(signal.SIGHUP, hang_up)


def run_here(
    settings: Settings,
    work: Callable[[BundleSession, Meter], Awaitable[_T]],
    verb: str = "",
    shown: Showing | None = None,
) -> _T:
    """Run `work` on bundles to its end; `verb` describes its progress, if it is shown. Raises `AmistreamError`."""
    from amistream.bundles.session import BundleSession

    return run_session(BundleSession, settings, work, verb, shown=shown)


def run_session(
    kind: Callable[[Settings, Aws, Note], _Session],
    settings: Settings,
    work: Callable[[_Session, Meter], Awaitable[_T]],
    verb: str = "",
    keys: AccessKeys | None = None,
    *,
    shown: Showing | None = None,
) -> _T:
    """Run `work` as `run_here` does, on a session of a kind; `keys` come before those the SDK finds."""
    shown = shown or Showing()

    def note(notice: str) -> None:
        if shown.notes:
            put_note(json.dumps({"type": "note", "message": notice}) if shown.as_json else f"note: {notice}")

    async def run_with_session() -> _T:
        meter = BundleMeter()
        async with Aws(settings, keys) as aws, metered(meter, verb, shown):
            return await work(kind(settings, aws, note), meter.counters)

    return run(run_with_session)
