"""Scenarios run on a tiny volume, and their figures are sane. How quick anything is, is not judged here.

The others are made of the same jobs, and take a minute of processes' starts together: a benchmark runs them.
"""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from benchmarks.__main__ import main
from benchmarks.jobs import JobRunner
from benchmarks.scenarios import SCENARIOS
from benchmarks.sink_process import running_sink
from benchmarks.timing import BenchmarkError

TINY = ("--size", "1MiB", "--runs", "1", "--input", "synthetic", "--link", "500", "--round-trip", "1", "--budget", "1")


@dataclass(frozen=True)
class Run:
    """The files that one run of a scenario left."""

    directory: Path
    cache: Path
    text: str

    @property
    def result(self) -> Any:
        return json.loads(self.text)


def run(name: str, directory: Path) -> Run:
    cache, results = directory / "cache", directory / "results"
    to = ("--cache", str(cache), "--results", str(results), "--json", str(results / "all.json"))
    assert main([name, *TINY, *to]) == 0
    return Run(results, cache, (results / f"{name}.json").read_text())


def ratios_are_of_the_same_round(result: Any) -> None:
    """A job's ratio is its CPU seconds over the primitives' of that round."""
    found = {row["name"]: row["median"] for row in result["rows"]}
    base = found.pop("the primitives, one thread")
    assert len(found) == 4
    for row in found.values():
        assert row["cpu_ratio"] == pytest.approx(row["cpu_s"] / base["cpu_s"], rel=1e-3)
        assert row["bundled_share"] == pytest.approx(base["bundled_share"], abs=0.1)


def the_search_is_held_against_the_grid(result: Any) -> None:
    """The rate that is judged is the one that the grid measured, and the time is that of the longest run."""
    tuned, together, grid = (row["median"] for row in result["rows"])
    assert tuned["rate_ratio"] == pytest.approx(tuned["mb_per_s"] / grid["mb_per_s"], rel=1e-3)
    assert 0 < tuned["rate_ratio"] <= 1
    assert together["wall_ratio"] == pytest.approx(tuned["wall_s"], rel=1e-3)
    assert [(goal.get("at_least"), goal.get("at_most")) for goal in result["goals"]] == [(0.9, None), (None, 1.2)]


CHECKS: dict[str, Callable[[Any], None]] = {
    "throughput": ratios_are_of_the_same_round,
    "search": the_search_is_held_against_the_grid,
}
"""Checks of one scenario alone, made on the same run: a run takes seconds."""


@pytest.mark.parametrize("name", ["stages", "throughput", "search", "resume", "unpack", "scale"])
def test_scenario(name: str, tmp_path: Path) -> None:
    """A scenario writes its result: rows of positive figures, each with its runs, and what it ran on."""
    made = run(name, tmp_path)
    result = made.result
    assert json.loads((made.directory / "all.json").read_text()) == [result]
    assert result["scenario"] == name
    assert result["machine"]["cores"] >= 1
    assert result["input"]["kind"] == "synthetic"
    assert len(result["rows"]) > 1
    for row in result["rows"]:
        assert len(row["runs"]) == 1
        assert row["median"] == row["runs"][0]
        assert all(math.isfinite(value) and value >= 0 for value in row["median"].values()), row
    for private in (platform.node(), str(made.directory), str(made.cache), str(Path.home())):
        assert private not in made.text
    # What a run leaves behind is its inputs.
    assert {path.suffix for path in made.cache.iterdir()} == {".img"}
    if check := CHECKS.get(name):
        check(result)


def test_jobs_of_one_batch_do_not_meet(tmp_path: Path) -> None:
    """The same job can be run again against a sink that remembers what it was sent."""
    volume = tmp_path / "volume.img"
    volume.write_bytes(bytes(range(256)) * 4096)
    jobs = JobRunner(tmp_path)
    with running_sink(tmp_path) as sink:
        spec = jobs.sink(volume, sink)
        figures = jobs.run_all([spec, spec], sink) + jobs.run_all([spec], sink)
    assert [each.size for each in figures] == [2**20] * 3


def test_conversions(tmp_path: Path) -> None:
    """A conversion and an upload by hand send the same blocks to the sink."""
    volume = tmp_path / "volume.img"
    volume.write_bytes(bytes(range(256)) * 4096 + bytes(1 << 20) + b"end")
    jobs = JobRunner(tmp_path)
    with running_sink(tmp_path) as sink:
        figures = jobs.convert(volume, sink, puts=4)
        warm_ups = sink.stats()["objects"] - 3
        assert figures.bundled_size == 3 << 19
        assert jobs.sdk_upload(volume, sink, puts=4)["wall_s"] > 0
        assert sink.stats()["objects"] == warm_ups + 6


def test_a_job_that_fails(tmp_path: Path) -> None:
    """A child's failure is reported in the child's words."""
    jobs = JobRunner(tmp_path)
    spec = jobs.directory(tmp_path / "missing.img")
    with pytest.raises(BenchmarkError, match="no such file"):
        jobs.run(spec)


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    """The list names every scenario and how long it takes."""
    assert main(["--list"]) == 0
    said = capsys.readouterr().out
    for scenario in SCENARIOS.values():
        assert scenario.name in said
        assert scenario.takes in said


@pytest.mark.parametrize("arguments", [["no-such"], ["--size", "12"], ["--size", "much"], ["--runs", "0"]])
def test_wrong_arguments(arguments: list[str]) -> None:
    """Senseless arguments are refused with the usual status."""
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
