"""Follows a job from its begin to the command's exit status: shows progress, waits for the end, writes the result.

Ctrl-C while the daemon runs the job leaves it running: a closed laptop or a stopped script must not undo hours of work.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING

from amistream.cli.outcome import outcome_text, paint_outcome
from amistream.cli.output import put_error, put_note, put_result
from amistream.cli.screen import JsonScreen, PlainScreen, Screen
from amistream.cli.showing import Showing
from amistream.cli.summary import details_text
from amistream.errors import EXIT_DONE, EXIT_INTERRUPTED, AmistreamError, DifferenceError, JobError, RefusedError
from amistream.events import Event, JobKind, JobView, State
from amistream.reports import Report

if TYPE_CHECKING:
    from amistream.cli.client import Client


class CallerInterruptedError(AmistreamError):
    """The caller pressed Ctrl-C. Nobody's fault."""

    exit_status = EXIT_INTERRUPTED


class LeftRunningError(CallerInterruptedError):
    """The caller pressed Ctrl-C, and the job goes on. Nobody's fault."""

    is_failure = False


def follow_in_daemon(
    socket: Path, begin: Callable[[Client], Awaitable[str]], shown: Showing, *, detach: bool = False
) -> JobView:
    """Call `begin` for a job's id, and return the job once it has ended; with `detach`, at once."""
    from amistream.cli.client import Client

    job_id = ""

    async def follow() -> JobView:
        nonlocal job_id
        async with Client(socket) as client:
            job_id = await begin(client)
            return await (client.get(job_id) if detach else show_until_end(client.events(job_id), shown))

    try:
        return asyncio.run(follow())
    except KeyboardInterrupt:
        raise _left_running(job_id) from None


async def show_until_end(events: AsyncIterator[Event], shown: Showing) -> JobView:
    """Show every event (a job has at least one) and return the job of the last one."""
    with make_screen(shown) as screen:
        async for event in events:
            screen.show(event)
    return event.job


def make_screen(shown: Showing) -> Screen:
    """Make the kind of screen that is asked for and that stderr can show."""
    if shown.as_json:
        return JsonScreen(put_note, shown)
    if not shown.progress or not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
        return PlainScreen(put_note, shown)
    # rich takes a twentieth of a second to import, and scripts never see it.
    from amistream.cli.live import LiveScreen

    return LiveScreen(stages=shown.stages, earlier_notes=shown.earlier_notes)


def put_end(job: JobView, shown: Showing, *, option: str = "") -> int:
    """Write the result of an ended job, and return its exit status. `option` completes suggested commands."""
    if shown.as_json:
        put_result(job.model_dump_json())
    elif job.result is not None and (job.state is State.DONE or isinstance(job.result, Report)):
        put_result(outcome_text(job.result), paint_outcome)
        if shown.stages and job.kind in {JobKind.BUNDLE, JobKind.CONVERT}:
            put_result(f"\n{details_text(job)}")
    if job.state is State.DONE:
        return EXIT_DONE
    error = _error(job, option)
    put_error(error)
    return error.exit_status


def put_begun(job: JobView, *, as_json: bool) -> int:
    """Write the job's id, for a caller who does not wait."""
    put_result(job.model_dump_json() if as_json else job.id)
    return EXIT_DONE


def _error(job: JobView, option: str) -> AmistreamError:
    kind: type[AmistreamError] = RefusedError if job.state is State.REFUSED else JobError
    if isinstance(job.result, Report) and job.result.differences:
        kind = DifferenceError
    if job.state is State.INTERRUPTED and job.error is None:
        name, by_itself = job.id + option, "" if option else "; by itself it goes on when the daemon starts again"
        return kind(
            "job.interrupted",
            f"cannot finish job {job.id}: it was interrupted",
            hint=f"`amistream resume {name}` goes on where it stopped, `amistream cancel {name}` removes what it "
            f"stored{by_itself}",
        )
    if job.error is None:
        return kind("job.cancelled", f"cannot finish job {job.id}: it was cancelled")
    return kind(**job.error.model_dump())


def _left_running(job_id: str) -> AmistreamError:
    if not job_id:
        return CallerInterruptedError(
            "interrupted",
            "cannot say whether the daemon took the request: interrupted before it answered",
            hint="`amistream jobs` shows it if it did",
        )
    return LeftRunningError(
        "interrupted",
        f"job {job_id} continues in the daemon",
        hint=f"`amistream watch {job_id}` follows it again, `amistream cancel {job_id}` ends it",
    )
