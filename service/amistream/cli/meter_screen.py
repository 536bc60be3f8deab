"""The progress of work on a bundle in this process, on stderr: a bar on a terminal, lines of JSON with `--json`.

Elsewhere nothing is shown: such work has no states, and its result follows.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager

from amistream.cli.output import put_note
from amistream.cli.screen import JSON_PERIOD_S
from amistream.cli.showing import Showing
from amistream.jobs.bundle_progress import BundleMeter
from amistream.units import rate_text, size_text

DRAWN_EVERY_S = 0.25


@asynccontextmanager
async def metered(meter: BundleMeter, work: str, shown: Showing) -> AsyncIterator[None]:
    """Show the meter during the work, whose name is `work`, as `shown` says and stderr can."""
    with ExitStack() as stack:
        if not work or not shown.progress or not (shown.as_json or sys.stderr.isatty()):
            yield
            return
        show, period_s = (_lines(meter, work), JSON_PERIOD_S) if shown.as_json else (_bar(meter, work, stack), None)

        async def keep_showing() -> None:
            while True:
                await asyncio.sleep(period_s or DRAWN_EVERY_S)
                show()

        showing = asyncio.create_task(keep_showing())
        try:
            yield
        finally:
            showing.cancel()
            await asyncio.wait({showing})
            show()


def _lines(meter: BundleMeter, work: str) -> Callable[[], None]:
    def show() -> None:
        progress = meter.sample().model_dump(mode="json", exclude={"stages", "compression", "bottleneck", "advice"})
        put_note(json.dumps({"type": "progress", "work": work, **progress}))

    return show


def _bar(meter: BundleMeter, work: str, stack: ExitStack) -> Callable[[], None]:
    # Scripts never see rich, which takes a twentieth of a second to import.
    from rich.console import Console, Group
    from rich.live import Live
    from rich.text import Text

    from amistream.cli.live import WIDEST, progress_bar

    console = Console(stderr=True, highlight=False)
    live = stack.enter_context(Live(console=console, auto_refresh=False, transient=sys.stdout.isatty()))

    def show() -> None:
        progress = meter.sample()
        sizes = f"{size_text(progress.bytes_done)} of {size_text(progress.bytes_total)}"
        line = f"{progress.parts_stored} of {progress.parts_made} parts, {sizes}, {rate_text(progress.rate)}"
        bar = progress_bar(Text(work, "bold"), progress, min(console.width, WIDEST))
        live.update(Group(bar, Text(line)), refresh=True)

    return show
