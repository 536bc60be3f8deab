"""Tuning: rounds, sample and recommendation with given figures, then once against a real endpoint."""

from __future__ import annotations

import itertools
import json
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amistream.cli import main
from amistream.jobs.tune import (
    SLICE,
    WHOLE_SAMPLES,
    Candidate,
    Trial,
    candidates,
    recommend,
    sample_extents,
    successive_halving,
)
from amistream.values import GIB, MIB, Extent
from jobs.work import use_endpoint
from support.buckets import list_keys
from support.volumes import random_image

if TYPE_CHECKING:
    from conftest import MakeBucket
    from support.endpoints import Endpoint

FIELD = candidates(workers=2, block_size=2 * MIB, memory_limit=4 * GIB)


def test_the_field_is_the_grid_within_memory() -> None:
    """All 64 combinations compete when memory allows, fewer when it does not, none over the limit."""
    assert len(FIELD) == 64
    small = candidates(workers=2, block_size=2 * MIB, memory_limit=220 * MIB)
    assert 0 < len(small) < 64
    assert max(each.part_size * each.upload_concurrency for each in small) < 220 * MIB


@pytest.mark.parametrize("best", FIELD[::7])
async def test_the_best_is_found_in_a_quarter_of_the_grids_work(best: Candidate) -> None:
    """The best candidate is found, and the samples together are a quarter of the whole grid's."""
    made = []

    async def attempt(candidate: Candidate, sample: int) -> Trial:
        far = abs(FIELD.index(candidate) - FIELD.index(best))
        trial = Trial(candidate=candidate, sample=sample, seconds=sample / (1000 - far), stored=1)
        made.append(sample)
        return trial

    trials = await successive_halving(FIELD, GIB, attempt)
    assert max(trials, key=lambda trial: trial.rate).candidate == best
    assert sum(made) == WHOLE_SAMPLES * GIB == 64 * GIB // 4
    assert recommend(trials).rate >= 0.9 * 1000


def test_among_equals_the_one_with_least_in_flight() -> None:
    """A candidate as good as the best that holds less memory is preferred."""

    def trial(part_size: int, concurrency: int, rate: float) -> Trial:
        candidate = Candidate(part_size=part_size, upload_concurrency=concurrency, compress="fast")
        return Trial(candidate=candidate, sample=1000, seconds=1000 / rate, stored=1)

    trials = [trial(40, 16, 100), trial(10, 4, 99), trial(5, 2, 90)]
    assert recommend(trials) is trials[1]


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


def test_tuning_for_real(
    tmp_path: Path,
    ministack: Endpoint,
    make_bucket: MakeBucket,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The command tries candidates against a real endpoint, writes a usable fragment, and leaves nothing there."""
    use_endpoint(ministack, monkeypatch)
    bucket = make_bucket(ministack)
    image = random_image(tmp_path / "disk.img", 16 * MIB)
    status = main.run(
        [
            *("tune", str(image), "--to", f"s3://{bucket}/x", "--endpoint-url", ministack.url, "--budget", "1"),
            *("--memory-limit", "200MiB", "--write", str(tmp_path / "tuned.toml"), "--json"),
        ]
    )
    shown = capsys.readouterr()
    assert status == 0, shown.err
    best = json.loads(shown.out)["recommended"]
    fragment = tomllib.loads((tmp_path / "tuned.toml").read_text())
    assert fragment == {name: best[name] for name in ("part_size", "upload_concurrency", "compress")}
    assert list_keys(ministack, bucket) == []
