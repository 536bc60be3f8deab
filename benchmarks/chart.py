"""Draws charts as SVG files with matplotlib (the extra `bench`)."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.timing import BenchmarkError

OURS, OTHERS = "#1f6feb", "#8c959f"
PIECES = ("#8250df", "#57606a", "#a5d6ff", "#1b7c83", "#d4a72c", OURS)
"""Colours of the pieces of bars, in order."""
_BAR_INCHES, _PANEL_INCHES = 0.45, 3.6


@dataclass(frozen=True, slots=True)
class Lines:
    """Lines by name, each a sequence of points (x, y)."""

    title: str
    x_title: str
    y_title: str
    lines: Mapping[str, Sequence[tuple[float, float]]]


@dataclass(frozen=True, slots=True)
class Bars:
    """Horizontal bars by name, from top to bottom, each made of named pieces; those in `ours` stand out."""

    title: str
    x_title: str
    bars: Mapping[str, Mapping[str, float]]
    ours: frozenset[str] = frozenset()
    format: str = ".0f"


@dataclass(frozen=True, slots=True)
class Heat:
    """A table of figures, whose colours show their size: `values[row][column]`."""

    title: str
    x_title: str
    y_title: str
    columns: Sequence[str]
    rows: Sequence[str]
    values: Sequence[Sequence[float]]
    format: str = ".0f"


Panel = Lines | Bars | Heat


def draw(title: str, panels: Sequence[Panel], path: Path) -> None:
    """Write the panels side by side to `path`, as SVG.

    Lines whose y axes have the same title share their scale, and so do all tables. Raises `BenchmarkError` if
    matplotlib is not installed.
    """
    try:
        matplotlib: Any = importlib.import_module("matplotlib")
        figures: Any = importlib.import_module("matplotlib.figure")
    except ImportError:
        raise BenchmarkError("cannot draw charts: matplotlib is not installed (pip install '.[bench]')") from None
    # Text stays text, and equal figures give equal files.
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "amistream", "font.size": 10})
    most_bars = max((len(panel.bars) for panel in panels if isinstance(panel, Bars)), default=0)
    height = 1.2 + most_bars * _BAR_INCHES if most_bars else _PANEL_INCHES
    width = 7.5 if len(panels) == 1 else 4.2 * len(panels)
    figure = figures.Figure(figsize=(width, height), layout="constrained", facecolor="white")
    figure.suptitle(title)
    all_axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for panel, axes in zip(panels, all_axes, strict=True):
        axes.set(title=panel.title, xlabel=panel.x_title)
        match panel:
            case Lines():
                _lines(axes, panel, [each for each in panels if isinstance(each, Lines)])
            case Bars():
                _bars(axes, panel)
            case Heat():
                _heat(axes, panel, [each for each in panels if isinstance(each, Heat)])
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="svg", metadata={"Date": None})


def _lines(axes: Any, panel: Lines, panels: Sequence[Lines]) -> None:
    for name, points in panel.lines.items():
        axes.plot([x for x, _ in points], [y for _, y in points], marker="o", label=name)
    alike = [other for other in panels if other.y_title == panel.y_title]
    top = max(y for other in alike for points in other.lines.values() for _, y in points)
    axes.set_ylabel(panel.y_title)
    axes.set_ylim(0, top * 1.1)
    axes.grid(visible=True, alpha=0.3)
    if len(panel.lines) > 1:
        axes.legend()


def _bars(axes: Any, panel: Bars) -> None:
    names = list(panel.bars)
    pieces = list(dict.fromkeys(piece for bar in panel.bars.values() for piece in bar))
    for piece in pieces:
        ends = [_end(panel.bars[name], piece, pieces) for name in names]
        sizes = [panel.bars[name].get(piece, 0.0) for name in names]
        starts = [end - size for end, size in zip(ends, sizes, strict=True)]
        shades: list[str] | str = PIECES[pieces.index(piece)]
        if len(pieces) == 1:
            shades = [OURS if name in panel.ours else OTHERS for name in names]
        axes.barh(names, sizes, left=starts, color=shades, label=piece)
    totals = [sum(bar.values()) for bar in panel.bars.values()]
    for at, total in enumerate(totals):
        axes.annotate(f"{total:{panel.format}}", (total, at), xytext=(4, 0), textcoords="offset points", va="center")
    axes.invert_yaxis()
    axes.set_xlim(0, max(totals) * 1.12)
    axes.spines[["top", "right"]].set_visible(False)
    if len(pieces) > 1:
        axes.figure.legend(loc="outside lower center", ncols=len(pieces), frameon=False, fontsize=9)


def _end(bar: Mapping[str, float], piece: str, pieces: Sequence[str]) -> float:
    return sum(bar.get(each, 0.0) for each in pieces[: pieces.index(piece) + 1])


def _heat(axes: Any, panel: Heat, panels: Sequence[Heat]) -> None:
    figures = [value for other in panels for row in other.values for value in row]
    low, high = min(figures), max(figures)
    axes.imshow(panel.values, cmap="Blues", vmin=low - (high - low) / 4, vmax=high, aspect="auto")
    axes.set_xticks(range(len(panel.columns)), panel.columns)
    axes.set_yticks(range(len(panel.rows)), panel.rows)
    axes.set_ylabel(panel.y_title)
    for row, values in enumerate(panel.values):
        for column, value in enumerate(values):
            dark = value > (low + high) / 2
            axes.annotate(
                f"{value:{panel.format}}", (column, row), ha="center", va="center", color="white" if dark else "black"
            )
