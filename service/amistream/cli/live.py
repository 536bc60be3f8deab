"""The progress of a job drawn on a terminal: its state, one bar for the volume, one row per stage.

Redrawn only at an event, without a thread; the daemon sends a few events per second.
"""

from __future__ import annotations

from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from amistream.cli.job_table import where_to
from amistream.cli.output import visible
from amistream.cli.screen import Announced, Screen, speed_words
from amistream.events import Event, JobKind, JobView, Progress
from amistream.units import rate_text, share_text, size_text


class LiveScreen(Screen):
    """Uses the lower lines of the terminal until its end; the last drawing stays."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._live = Live(console=self._console, auto_refresh=False, redirect_stdout=False)
        self._told = Announced()

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, event: Event) -> None:
        for line in self._told.new_notices(event.job):
            self._console.print(Text(visible(line)))
        self._live.update(_picture(event.job), refresh=True)


def _picture(job: JobView) -> Group:
    lines: list[Table | Text] = []
    if job.progress is not None:
        lines += [_bar(job.progress, job.kind), _stages(job.progress)]
    places = where_to(job.model_dump(mode="json", include={"kind", "destinations", "result"}))
    to = f" to {', '.join(places)}" if places else ""
    about = f"job {job.id}: {job.state.value}  {job.source}{to}"
    return Group(*lines, Text(visible(about), "bold"))


def _bar(progress: Progress, kind: JobKind) -> Table:
    row = Table.grid(padding=(0, 2))
    row.add_row(
        ProgressBar(total=1, completed=progress.stored_share, width=30),
        share_text(progress.stored_share, 1),
        size_text(progress.bytes_total),
        *speed_words(progress, kind),
    )
    return row


def _stages(progress: Progress) -> Table:
    """Make a row per stage: its input, or the bytes sent; its speed while all lanes work; the share of the time."""
    table = Table.grid(padding=(0, 2))
    for justify in ("left", "right", "right", "right", "left"):
        table.add_column(justify=justify)
    for stage in progress.stages:
        limits = stage.name == progress.bottleneck
        size = stage.bytes_out if stage.name in {"upload", "put"} else stage.bytes_in
        table.add_row(
            stage.name,
            size_text(size),
            rate_text(size, stage.busy_s / stage.lanes),
            f"busy {share_text(stage.busy_share, 1)}",
            "<- limits" if limits else "",
            style="yellow" if limits else None,
        )
    return table
