"""Charts as PNG files, where matplotlib is installed (the extra `bench`); without it there are none."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Panel:
    """One pair of axes: lines by name, each a sequence of points (x, y)."""

    title: str
    x_title: str
    y_title: str
    lines: Mapping[str, Sequence[tuple[float, float]]]
    x_ticks: Sequence[float] = ()
    """Marks of the x axis, which is then logarithmic to base 2."""


def draw(title: str, panels: Sequence[Panel], path: Path) -> bool:
    """Write the panels side by side to `path`; returns False, writing nothing, when matplotlib is not installed.

    Panels whose y axes have the same title share their scale.
    """
    try:
        figures: Any = importlib.import_module("matplotlib.figure")
    except ImportError:
        return False
    figure = figures.Figure(figsize=(4.5 * len(panels), 4), layout="constrained")
    figure.suptitle(title)
    all_axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for panel, axes in zip(panels, all_axes, strict=True):
        for name, points in panel.lines.items():
            axes.plot([x for x, _ in points], [y for _, y in points], marker="o", label=name)
        axes.set(title=panel.title, xlabel=panel.x_title, ylabel=panel.y_title)
        if panel.x_ticks:
            axes.set_xscale("log", base=2)
            axes.set_xticks(panel.x_ticks, [f"{x:g}" for x in panel.x_ticks])
        alike = [other for other in panels if other.y_title == panel.y_title]
        top = max(y for other in alike for points in other.lines.values() for _, y in points)
        axes.set_ylim(0, top * 1.1)
        axes.grid(visible=True, alpha=0.3)
        if len(panel.lines) > 1:
            axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    return True
