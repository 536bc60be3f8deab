"""The charts of the manual."""

from __future__ import annotations

import importlib.util
import math
import sys
from pathlib import Path

import pytest

from benchmarks.__main__ import CHARTS as DIRECTORY
from benchmarks.__main__ import RESULTS, main
from benchmarks.chart import Bars, Heat, Lines, Panel
from benchmarks.charts import CHARTS, Kept


def figures(panel: Panel) -> list[float]:
    match panel:
        case Lines():
            return [figure for points in panel.lines.values() for point in points for figure in point]
        case Bars():
            return [figure for bar in panel.bars.values() for figure in bar.values()]
        case Heat():
            return [figure for row in panel.values for figure in row]


@pytest.mark.parametrize("name", CHARTS)
def test_a_chart(name: str) -> None:
    """A chart shows the figures of the kept result, and is in the manual."""
    chart = CHARTS[name]
    panels = chart.panels(Kept.read(RESULTS / f"{chart.scenario}.json"))
    for panel in panels:
        assert len(figures(panel)) > 1
        assert all(math.isfinite(figure) and figure >= 0 for figure in figures(panel))
    assert chart.title in (DIRECTORY / f"{name}.svg").read_text()


@pytest.mark.skipif(not importlib.util.find_spec("matplotlib"), reason="matplotlib is not installed")
def test_drawing(tmp_path: Path) -> None:
    """Every chart is an SVG whose words are text."""
    assert main(["--charts", str(tmp_path)]) == 0
    for name in CHARTS:
        assert (tmp_path / f"{name}.svg").read_text().count("<text") > 4


def test_without_matplotlib(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without matplotlib there is one message, and no file."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["--charts", str(tmp_path / "charts")]) == 1
    assert "matplotlib is not installed" in capsys.readouterr().err
    assert not (tmp_path / "charts").exists()
