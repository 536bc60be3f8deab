"""Bounds a report, so that a job that keeps it is small whatever the bundle holds.

A manifest may have 4 MiB, and so may the name in an archive; a thousand ended jobs are remembered, and each event
carries its whole job.
"""

from __future__ import annotations

from amistream.reports import Difference, Report

MOST_DIFFERENCES = 100
"""Guess: more than anybody reads one by one, and 100 KiB at most."""
LONGEST_TEXT = 512
"""Characters. A file name has 255 bytes, and stands in a sentence."""


def bounded(report: Report) -> Report:
    """The report with its first differences only, and with its texts cut. A note counts what is left out."""
    left_out = len(report.differences) - MOST_DIFFERENCES
    notes = [_cut(note) for note in report.notes]
    if left_out > 0:
        notes.append(f"{left_out} more differences are not listed; `amistream verify` without --detach lists all")
    content = report.content
    return report.model_copy(
        update={
            **{name: _cut(getattr(report, name)) for name in ("bundler", "kind", "architecture")},
            "content": content and content.model_copy(update={"name": _cut(content.name)}),
            "differences": tuple(_bounded(each) for each in report.differences[:MOST_DIFFERENCES]),
            "notes": tuple(notes),
        }
    )


def _bounded(difference: Difference) -> Difference:
    return difference.model_copy(
        update={name: _cut(getattr(difference, name)) for name in ("expected", "found", "message")}
    )


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]}..."
