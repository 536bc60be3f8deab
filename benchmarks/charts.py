"""The charts of the manual: each is made from the kept results of scenarios, and drawn to `docs/charts/NAME.svg`.

`python -m benchmarks --charts` draws all whose results are kept.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.chart import Bars, Heat, Lines, Panel, draw

Medians = dict[str, dict[str, float]]
"""The medians of a scenario's figures, by row."""


@dataclass(frozen=True, slots=True)
class Kept:
    """The kept result of a scenario."""

    rows: Medians
    input: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path) -> Kept:
        result = json.loads(path.read_text(encoding="utf-8"))
        return cls({row["name"]: row["median"] for row in result["rows"]}, result["input"])


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart, and the scenario whose result it shows."""

    scenario: str
    title: str
    panels: Callable[[Kept], Sequence[Panel]]


def draw_all(results: Path, directory: Path) -> list[Path]:
    """Draw every chart whose result is in `results`; returns the files. Raises `BenchmarkError`."""
    drawn = []
    for name, chart in CHARTS.items():
        kept = results / f"{chart.scenario}.json"
        if kept.exists():
            drawn.append(directory / f"{name}.svg")
            draw(chart.title, chart.panels(Kept.read(kept)), drawn[-1])
    return drawn


def _peers(kept: Kept) -> Sequence[Panel]:
    bars = {name: {"": row["mb_per_s"]} for name, row in kept.rows.items()}
    return [Bars("", "MB of the volume per second, on two cores", bars, frozenset({"amistream"}))]


def _stages(kept: Kept) -> Sequence[Panel]:
    pieces = {
        "read": "read_cpu_s_per_gib",
        "SHA-1": "sha1_cpu_s_per_gib",
        "deflate": "deflate_cpu_s_per_gib",
        "AES": "aes_cpu_s_per_gib",
        "SHA-1 of the parts": "part_sha1_cpu_s_per_gib",
    }
    bars = {}
    for name, row in kept.rows.items():
        known = {piece: row[key] for piece, key in pieces.items() if key in row}
        rest = row["cpu_s_per_gib"] - sum(known.values())
        bars[name] = known or {"whole job": rest}
    return [Bars("", "CPU seconds per GiB", bars, format=".2f")]


def _tuning(kept: Kept) -> Sequence[Panel]:
    points = {name: row for name, row in kept.rows.items() if " MiB x " in name}
    grid = {tuple(name.replace(" MiB x ", " ").split()): row["mb_per_s"] for name, row in points.items()}
    compressions, parts, uploads = (list(dict.fromkeys(point[at] for point in grid)) for at in range(3))
    return [
        Heat(
            f"--compress {compress}",
            "part size, MiB",
            "uploads at a time",
            parts,
            uploads,
            [[grid[compress, part, upload] for part in parts] for upload in uploads],
        )
        for compress in compressions
    ]


def _start(kept: Kept) -> Sequence[Panel]:
    bars = {name: {"": row["cpu_ms"]} for name, row in kept.rows.items()}
    return [Bars("", "CPU milliseconds from start to end", bars, frozenset(list(bars)[1:]))]


def _scale(kept: Kept) -> Sequence[Panel]:
    rows = [row for name, row in kept.rows.items() if name.endswith(" GiB")]

    def line(key: str) -> dict[str, list[tuple[float, float]]]:
        return {key: [(row["size_gib"], row[key]) for row in rows]}

    return [
        Lines("time", "volume, GiB", "wall seconds", line("wall_s")),
        Lines("memory", "volume, GiB", "peak RSS, MiB", line("peak_rss_mib")),
    ]


def _tree(kept: Kept) -> Sequence[Panel]:
    cases = {name: size["inodes"] / 1e3 for name, size in kept.input.items() if name.endswith("small files")}

    def line(row: str, key: str) -> list[tuple[float, float]]:
        return sorted((thousands, kept.rows[f"{case}: {row}"][key]) for case, thousands in cases.items())

    work = {"first walk": "pass one", "reading, last look": "pass two", "tar to cat": "tar | cat, the floor"}
    return [
        Lines("CPU", "inodes, thousands", "CPU seconds", {name: line(row, "cpu_s") for name, row in work.items()}),
        Lines("memory", "inodes, thousands", "peak RSS, MiB", {"source": line("source: both", "peak_rss_mib")}),
    ]


def _uploads(kept: Kept) -> Sequence[Panel]:
    bars = {name: {"": row["mb_per_s"]} for name, row in kept.rows.items()}
    return [Bars("", "MB of the bundle per second, to a server on the same machine", bars, frozenset({"amistream"}))]


CHARTS: dict[str, Chart] = {
    "peers": Chart("peers", "The same bundle, uploaded to a local endpoint", _peers),
    "uploads": Chart("uploads", "The upload alone", _uploads),
    "stages": Chart("throughput", "Where the CPU time goes", _stages),
    "tuning": Chart("tuning", "MB of the volume per second over a simulated link", _tuning),
    "start": Chart("start", "Start-up", _start),
    "tree": Chart("tree", "Growth with the files of a directory", _tree),
    "scale": Chart("scale", "Growth with the volume", _scale),
}
