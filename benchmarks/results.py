"""The outcome of a scenario: rows of figures per run, medians, and goals."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.timing import medians

_DIGITS = 5


@dataclass(frozen=True, slots=True)
class Column:
    """A figure as the table shows it: its key in a row, its title with the unit, and its format."""

    key: str
    title: str
    format: str = ".2f"


@dataclass(slots=True)
class Row:
    """One measured variant, with a figure for each round."""

    name: str
    runs: list[dict[str, float]] = field(default_factory=list)

    @property
    def median(self) -> dict[str, float]:
        return medians(self.runs)


@dataclass(frozen=True, slots=True)
class Goal:
    """A goal: `value` is to be at most (or, with `at_least`, at least) `limit`."""

    what: str
    value: float
    limit: float
    at_least: bool = False

    @property
    def met(self) -> bool:
        return self.value >= self.limit if self.at_least else self.value <= self.limit


@dataclass(slots=True)
class Outcome:
    """A scenario's result. `input` and `notes` describe the measurement; no paths in them."""

    scenario: str
    columns: tuple[Column, ...]
    input: dict[str, Any]
    rows: dict[str, Row] = field(default_factory=dict)
    goals: list[Goal] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, name: str, figures: Mapping[str, float]) -> None:
        """One run's figures of a row."""
        self.rows.setdefault(name, Row(name)).runs.append(dict(figures))

    def median(self, name: str, key: str) -> float:
        return self.rows[name].median[key]

    def goal(self, what: str, name: str, key: str, limit: float, *, at_least: bool = False) -> None:
        """Hold the median of one figure against its limit."""
        self.goals.append(Goal(what, self.median(name, key), limit, at_least))

    def as_json(self, machine: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "scenario": self.scenario,
            "date": f"{datetime.now(UTC):%Y-%m-%d}",
            "machine": dict(machine),
            "input": self.input,
            "rows": [
                {"name": row.name, "median": _rounded(row.median), "runs": [_rounded(run) for run in row.runs]}
                for row in self.rows.values()
            ],
            "goals": [
                {
                    "what": goal.what,
                    "value": _significant(goal.value),
                    "at_least" if goal.at_least else "at_most": goal.limit,
                    "met": goal.met,
                }
                for goal in self.goals
            ],
            "notes": self.notes,
        }


def write(values: object, path: Path) -> None:
    """Write JSON that a person can read and a diff can compare."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def _rounded(figures: Mapping[str, float]) -> dict[str, float]:
    return {key: _significant(value) for key, value in figures.items()}


def _significant(value: float) -> float:
    """Cut to `_DIGITS` digits: more is noise."""
    if not value or not math.isfinite(value):
        return value
    return round(value, _DIGITS - 1 - math.floor(math.log10(abs(value))))
