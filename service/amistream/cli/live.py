"""The progress of a job drawn on a terminal: one bar and one line; with `--verbose` a row per stage, too.

Redrawn only at an event, without a thread; the daemon sends a few events per second. All of it disappears at the end if
the result follows on the same terminal.
"""

from __future__ import annotations

import sys
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from amistream.cli.job_table import where_to
from amistream.cli.output import visible
from amistream.cli.screen import Announced, Screen, left_words, work_words
from amistream.events import Event, JobView, Progress, State
from amistream.units import rate_text, share_text, size_text

WIDEST = 100
"""Columns beyond which the bar does not grow."""
_COLOURS = {State.DONE: "green", State.FAILED: "red", State.REFUSED: "red", State.CANCELLED: "yellow"}


class LiveScreen(Screen):
    """Uses the lower lines of the terminal until its end."""

    def __init__(self, *, stages: bool = False, earlier_notes: bool = True) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._live = Live(
            console=self._console, auto_refresh=False, redirect_stdout=False, transient=sys.stdout.isatty()
        )
        self._announced = Announced(earlier=earlier_notes)
        self._with_stages = stages

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, event: Event) -> None:
        for notice in self._announced.new_notices(event.job):
            self._console.print(Text.assemble(("note:", "yellow"), f" {visible(notice)}"))
        width = min(self._console.width, WIDEST)
        self._live.update(_picture(event.job, width, with_stages=self._with_stages), refresh=True)


def _picture(job: JobView, width: int, *, with_stages: bool) -> Group:
    places = where_to(job.model_dump(mode="json", include={"kind", "destinations", "result"}))
    about = visible(" -> ".join(filter(None, (job.source, ", ".join(places)))))
    state = Text(job.state.value, _COLOURS.get(job.state, "bold"))
    if job.progress is None:
        return Group(Text.assemble(state, f"  {about}"))
    lines: list[Table | Text] = []
    if with_stages:
        lines += [Text(f"job {job.id}  {about}"), _stages(job.progress)]
    words = work_words(job.progress, job.kind)
    if job.progress.bottleneck:
        *words, limit = words
    line = Text(", ".join(words))
    if job.progress.bottleneck:
        line.append(", ").append(limit, "yellow")
    return Group(*lines, progress_bar(state, job.progress, width), line)


def progress_bar(state: Text, progress: Progress, width: int) -> Table:
    """Make a line with a bar: a word, the bar, the share and the time left."""
    row = Table.grid(padding=(0, 2, 0, 0))
    texts = [share_text(progress.stored_share, 1), *left_words(progress)]
    taken = len(state) + sum(len(text) + 2 for text in texts) + 2
    bar = ProgressBar(total=1, completed=progress.stored_share, width=max(4, width - taken))
    row.add_row(state, bar, *texts)
    return row


def _stages(progress: Progress) -> Table:
    """Make a row per stage: its input, or the bytes sent; its speed while all lanes work; its share of the time."""
    table = Table.grid(padding=(0, 2, 0, 0))
    for justify in ("left", "right", "right", "right", "left"):
        table.add_column(justify=justify, no_wrap=True)
    for stage in progress.stages:
        is_limit = stage.name == progress.bottleneck
        size = stage.bytes_out if stage.name in {"upload", "put"} else stage.bytes_in
        table.add_row(
            stage.name,
            size_text(size),
            rate_text(size, stage.busy_s / stage.lanes),
            f"busy {share_text(stage.busy_share, 1)}",
            "<- limits" if is_limit else "",
            style="yellow" if is_limit else None,
        )
    return table
