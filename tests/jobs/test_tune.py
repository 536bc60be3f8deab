"""Tuning: the recommendation for given figures, the sample, and the command on a simulated link."""

from __future__ import annotations

import itertools
import json
import os
import time
import tomllib
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amistream.cli import main
from amistream.jobs.search import (
    Candidate,
    LevelSpeed,
    LinkSpeed,
    Speeds,
    Trial,
    candidates,
    next_to_try,
    ranked,
    recommend,
    steady_rate,
)
from amistream.jobs.tune import SLICE, sample_extents
from amistream.values import GIB, MIB, Extent, is_probe, probe_object, probe_of
from benchmarks.sink_process import BUCKET, running_sink
from support.volumes import random_image

if TYPE_CHECKING:
    from pathlib import Path

GRID = candidates(workers=2, block_size=2 * MIB, memory_limit=4 * GIB)


def test_the_grid_is_within_memory() -> None:
    """All 64 combinations compete when memory allows, fewer when it does not, none over the limit."""
    assert len(GRID) == 64
    small = candidates(workers=2, block_size=2 * MIB, memory_limit=220 * MIB)
    assert 0 < len(small) < 64
    assert max(each.part_size * each.upload_concurrency for each in small) < 220 * MIB


def speeds_of(link: float, connection: float, delay_s: float, *, piece: int = MIB) -> Speeds:
    """The figures of a link of so many bytes per second, and of each of its connections."""

    def rate(number: int) -> float:
        return min(link, number * piece / (delay_s + piece / connection))

    levels = {
        name: LevelSpeed(rate=rate, ratio=ratio)
        for name, rate, ratio in (("fast", 300e6, 0.53), ("balanced", 90e6, 0.47), ("small", 45e6, 0.44))
    }
    links = {number: LinkSpeed(rate=rate(number), piece=piece, spread=0.01) for number in (2, 4, 8, 16)}
    return Speeds(delay_s=delay_s, levels=levels, links=links)


@pytest.mark.parametrize(
    ("link", "connection", "delay_s", "concurrency", "compress"),
    [
        (20e6, 5e6, 0.08, 8, {"balanced", "small", "auto"}),
        (1e9, 100e6, 0.001, 2, {"fast"}),
        (1e6, 1e6, 0.2, 2, {"small"}),
        (200e6, 10e6, 0.05, 16, {"fast"}),
    ],
)
def test_the_best_setting_for_a_link(
    link: float, connection: float, delay_s: float, concurrency: int, compress: set[str]
) -> None:
    """As many connections as fill the link or keep up with the cores, and the compression that balances the two."""
    speeds = speeds_of(link, connection, delay_s)
    best = ranked(GRID, {each: speeds.computed(each) for each in GRID})[0]
    assert (best.upload_concurrency, best.compress in compress) == (concurrency, True)


def test_larger_parts_wait_less() -> None:
    """The delay of each upload counts once for a part: the larger one is computed as faster, up to the link's speed."""
    speeds = speeds_of(1e9, 20e6, 0.5, piece=64 * MIB)
    small, large = (speeds.upload_rate(size, 8) for size in (5 * MIB, 40 * MIB))
    assert small == pytest.approx(8 * 5 * MIB / (0.5 + 5 * MIB / 20e6))
    assert large == pytest.approx(8 * 40 * MIB / (0.5 + 40 * MIB / 20e6))


def test_the_end_of_a_pass_does_not_count() -> None:
    """The speed is that until the last part begins; with fewer parts than that needs, that of the whole pass."""
    sent = [(float(time), time + 2.0, 100) for time in range(7)]
    assert steady_rate(sent, 2) == pytest.approx((5 * 100 + 50) / 6)
    assert steady_rate(sent, 4) == pytest.approx(700 / 8)
    assert steady_rate(sent[:1], 1) == pytest.approx(50)


@pytest.mark.parametrize(
    ("passes", "challenger_wins"),
    [([(100, 120)], True), ([(100, 101)], False), ([(100, 120), (125, 121)], False), ([(100, 140), (105, 141)], True)],
)
def test_a_challenger_must_beat_the_setting_in_force_by_more_than_the_spread(
    passes: list[tuple[float, float]], challenger_wins: bool
) -> None:
    """Measured figures decide, and a difference within the measurements' own differences changes nothing."""
    in_force, challenger, other = GRID[10], GRID[20], GRID[30]
    speeds = speeds_of(20e6, 5e6, 0.08)
    for pair in passes:
        for candidate, rate in zip((in_force, challenger), pair, strict=True):
            speeds.trials.append(Trial(candidate=candidate, sample=1, seconds=1, stored=1, rate=rate))
    assert recommend(in_force, [other, in_force, challenger], speeds) == (challenger if challenger_wins else in_force)


def test_what_is_tried_next() -> None:
    """First the setting in force and the best, then others near it, and close ones twice; then all is settled."""
    speeds, in_force = speeds_of(20e6, 5e6, 0.08), GRID[0]
    tried = []
    while wanted := next_to_try(in_force, GRID, speeds):
        tried.append(wanted[0])
        rate = speeds.computed(wanted[0])
        speeds.trials.append(Trial(candidate=wanted[0], sample=1, seconds=1, stored=1, rate=rate))
    assert tried[0] == in_force
    assert tried[1] == ranked(GRID, {each: speeds.computed(each) for each in GRID})[0]
    assert len({each.upload_concurrency for each in tried[1:]}) == len(tried[1:]) > 1
    speeds.trials[:] = [replace(trial, rate=100.0 + number) for number, trial in enumerate(speeds.trials)]
    assert next_to_try(in_force, [each.candidate for each in speeds.trials], speeds)[0] == in_force


def test_among_equals_the_one_with_least_in_flight() -> None:
    """A candidate as good as the best that holds less memory is preferred."""
    grid = [
        Candidate(part_size=size, upload_concurrency=number, compress="fast")
        for size, number in ((40, 16), (10, 4), (5, 2))
    ]
    assert ranked(grid, dict(zip(grid, (100, 99, 90), strict=True))) == [grid[1], grid[0], grid[2]]


@given(
    pairs=st.lists(st.tuples(st.integers(1, 50), st.integers(1, 40)), min_size=1, max_size=8),
    wanted=st.integers(8 * MIB, 200 * MIB),
)
def test_a_sample_lies_inside_the_data(pairs: list[tuple[int, int]], wanted: int) -> None:
    """The sample is about as large as asked for, aligned, in order, and inside the data."""
    extents, position = [], 0
    for gap, length in pairs:
        extents.append(Extent(offset=position + gap * MIB, length=length * MIB))
        position = extents[-1].end
    data = sum(extent.length for extent in extents)
    chosen = sample_extents(extents, wanted)
    for each in chosen:
        assert any(extent.offset <= each.offset and each.end <= extent.end for extent in extents)
    for before, after in itertools.pairwise(chosen):
        assert before.end <= after.offset
    assert sum(each.length for each in chosen) <= max(min(wanted, data), SLICE)


@pytest.mark.parametrize("budget", [1, 5])
def test_tuning_for_real(
    budget: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command sends no more than its time allows, shows rounds and the best settings, and leaves nothing there."""
    image = random_image(tmp_path / "disk.img", 64 * MIB)
    written = tmp_path / "tuned.toml"
    with running_sink(tmp_path, bytes_per_s=20e6, connection_bytes_per_s=5e6, round_trip_s=0.04) as sink:
        for name, value in sink.environ().items():
            monkeypatch.setenv(name, value)
        line = ["tune", str(image), "--to", f"s3://{BUCKET}/x", "--endpoint-url", sink.url, "--budget", str(budget)]
        line += ["--memory-limit", "300MiB", "--write", str(written), *(["--json"] if budget == 1 else [])]
        status = main.run(line)
        stats = sink.stats()
    shown = capsys.readouterr()
    assert status == 0, shown.err
    assert stats["stored"] == 0
    # The link bounds what is sent in the time; the first measurement and the end of the last one come on top.
    assert 0 < stats["object_bytes"] <= 20e6 * (budget * 1.1 + 5)
    assert [f"round {number} of 3" in shown.err for number in (1, 2, 3)] == [True] * 3
    fragment = tomllib.loads(written.read_text())
    if budget == 1:
        found = json.loads(shown.out)
        best = found["recommended"]
        assert fragment == {
            "part_size": f"{best['part_size'] // MIB}MiB",
            **{name: best[name] for name in ("upload_concurrency", "compress")},
        }
        assert (best, len(found["best"])) == (found["best"][0], 5)
    else:
        rows = [line for line in shown.out.splitlines() if "MiB/s" in line and "#" in line and "MiB " in line]
        assert ["recommended" in row for row in rows] == [True] + [False] * 4


def test_the_names_of_a_probe() -> None:
    """Only the exact names of probes are known as such, and those of one probe begin alike."""
    name = probe_object("0123abcd", 12)
    assert probe_of(name) == probe_of(f"{name}.part.00") == "amistream-tune-0123abcd-"
    assert probe_of("amistream-probe-0123abcd") == "amistream-probe-0123abcd"
    others = ["amistream-tune-", "amistream-tune-0123abcd-x", "amistream-tune-0123ABCD-1", "amistream-probe-web"]
    others += [f"{name}.part.00.old", f"{name}.part.1", f"{name}.manifest.xml", f"my-{name}", f"x/{name}"]
    assert [other for other in others if is_probe(other)] == []


def test_what_a_killed_probe_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The next measurement removes a probe's objects after a day, and neither younger ones nor others."""
    monkeypatch.setenv("AMISTREAM_STATE_DIR", str(tmp_path / "state"))
    image, place = random_image(tmp_path / "disk.img", 4 * MIB), tmp_path / "out"
    place.mkdir()
    old = [probe_object("0badcafe", 1), f"{probe_object('0badcafe', 2)}.part.00"]
    young = probe_object("0badf00d", 1)
    for name in (*old, young, "amistream-tune-web", "image.part.00"):
        (place / name).write_bytes(b"noise")
        days = 0 if name == young else 2
        os.utime(place / name, (time.time() - days * 86400,) * 2)
    assert main.run(["tune", str(image), "--to", str(place), "--budget", "1"]) == 0
    assert sorted(path.name for path in place.iterdir()) == sorted([young, "amistream-tune-web", "image.part.00"])
    assert "removed 2 objects that earlier measurements had left" in capsys.readouterr().err
