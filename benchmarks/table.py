"""Shows an outcome on the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmarks.results import Outcome


def show(outcome: Outcome, console: Console, *, caption: str = "") -> None:
    """Print the medians as a table, then the goals and notes."""
    runs = max((len(row.runs) for row in outcome.rows.values()), default=0)
    table = Table(title=f"{outcome.scenario} (medians of {runs})", caption=caption or None, title_justify="left")
    table.add_column("", no_wrap=True)
    for column in outcome.columns:
        table.add_column(column.title, justify="right")
    for row in outcome.rows.values():
        median = row.median
        cells = [
            format(median[column.key], column.format) if column.key in median else "" for column in outcome.columns
        ]
        table.add_row(Text(row.name), *cells)
    console.print(table)
    for goal in outcome.goals:
        sign = ">=" if goal.at_least else "<="
        word = Text("  met " if goal.met else "missed", style="green" if goal.met else "red")
        console.print(word, Text(f"{goal.what}: {goal.value:.3g} {sign} {goal.limit:g}"))
    for note in outcome.notes:
        console.print(Text(note), style="dim")
