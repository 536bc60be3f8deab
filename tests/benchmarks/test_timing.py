"""Costs, rounds and medians."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from benchmarks.results import Goal, Outcome
from benchmarks.timing import BenchmarkError, Cost, alternate, medians, run_shell


def test_a_pipeline_has_a_cost(tmp_path: Path) -> None:
    """Wall and CPU seconds of a pipeline are those of its programs."""
    cost = run_shell(
        'head -c 4000000 /dev/zero | openssl dgst -"$KIND" >sum', directory=tmp_path, environ={"KIND": "sha1"}
    )
    assert cost.wall_s > 0
    assert cost.cpu_s > 0
    assert "SHA1" in (tmp_path / "sum").read_text()


def test_a_program_that_fails_inside_a_pipeline(tmp_path: Path) -> None:
    """A pipeline whose first program fails is no measurement; the error says what was printed."""
    with pytest.raises(BenchmarkError, match="no-such-file"):
        run_shell("cat no-such-file | wc", directory=tmp_path, environ={})


def test_costs_add_up() -> None:
    """Runs under one cost are counted together."""
    cost = Cost()
    with cost.timed():
        sum(range(1000))
    before = cost.wall_s
    with cost.timed():
        sum(range(1000))
    assert cost.wall_s > before > 0


def test_rounds_alternate() -> None:
    """Every other round runs backwards; results keep their order."""
    order: list[str] = []

    def note(name: str) -> int:
        order.append(name)
        return len(order)

    rounds = list(alternate(2, {name: partial(note, name) for name in "abc"}))
    assert "".join(order) == "abccba"
    assert rounds == [{"a": 1, "b": 2, "c": 3}, {"a": 6, "b": 5, "c": 4}]


def test_medians() -> None:
    """Each figure's median is taken over the runs that have it."""
    assert medians([{"x": 1.0}, {"x": 5.0, "y": 2.0}, {"x": 3.0}]) == {"x": 3.0, "y": 2.0}


def test_goals() -> None:
    """A goal is an upper or a lower limit of a median."""
    outcome = Outcome("test", (), {})
    for value in (1.0, 9.0, 2.0):
        outcome.add("row", {"x": value})
    outcome.goal("low enough", "row", "x", 2.0)
    outcome.goal("high enough", "row", "x", 3.0, at_least=True)
    assert [goal.met for goal in outcome.goals] == [True, False]
    assert Goal("exact", 1.0, 1.0).met
