"""Progress and units in words, without a terminal."""

from __future__ import annotations

import json

import pytest

from amistream.cli.screen import JsonScreen, PlainScreen, progress_line
from amistream.cli.showing import Showing
from amistream.events import Event, JobKind
from amistream.jobs.job import Job
from amistream.units import duration_text, rate_text, share_text, size_text
from cli.scripted import PROGRESS, begin, finish, make_job


class Clock:
    """Stands still until a test moves it."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def newest(job: Job) -> Event:
    event = job._newest_progress
    assert event is not None
    return event


def test_a_progress_line_at_most_every_five_seconds() -> None:
    """However many progress events come, one line is written in five seconds."""
    lines: list[str] = []
    clock = Clock()
    begin(job := make_job())
    with PlainScreen(lines.append, Showing(), clock) as screen:
        for moment in (0.0, 0.1, 4.9, 5.0, 9.9, 10.0):
            clock.now = 1000.0 + moment
            screen.show(newest(job))
    assert lines == [f"job {job.id}: bundling", *[progress_line(PROGRESS, JobKind.BUNDLE)] * 3]


def test_every_state_and_notice_once() -> None:
    """Changes of state and notices are told at once, and once, also when events are seen twice."""
    lines: list[str] = []
    begin(job := make_job())
    job.note("the clock is 3 s late")
    finish(job)
    with PlainScreen(lines.append, Showing(), Clock()) as screen:
        for event in [*job._events, *job._events[-1:]]:
            screen.show(event)
    told = [line.removeprefix(f"job {job.id}: ") for line in lines]
    assert told == [
        "queued", "checking", "bundling", "note: the clock is 3 s late", "committing", "registering", "done",
    ]  # fmt: skip


def test_notes_of_an_earlier_run() -> None:
    """A command that takes a job up again shows the notes since then only, and its record has all of them."""
    lines: list[str] = []
    begin(job := make_job())
    job.note("the clock is 3 s late")
    again = job.again()
    again.note("the clock is 5 s late")
    with PlainScreen(lines.append, Showing(earlier_notes=False), Clock()) as screen:
        for event in again._events:
            screen.show(event)
    assert [line for line in lines if line.startswith("note")] == ["note: the clock is 5 s late"]
    assert again.notices == ("the clock is 3 s late", "the clock is 5 s late")


def test_what_is_not_known_yet_is_left_out() -> None:
    """A progress line without a rate yet has no time left and no bottleneck in it."""
    early = PROGRESS.model_copy(update={"eta_s": None, "bottleneck": None, "rate": 0.0})
    converting = early.model_copy(update={"blocks_made": 8, "blocks_stored": 7})
    assert progress_line(converting, JobKind.CONVERT).endswith("0 B/s, 7 blocks stored")
    assert progress_line(early, JobKind.BUNDLE) == "75 %, 320.0 MiB of 400.0 MiB read, 0 B/s, 9 parts stored"


def test_progress_for_machines() -> None:
    """Each line is one object: every state and note once, progress at most once a second, and the end last."""
    lines: list[str] = []
    clock = Clock()
    begin(job := make_job())
    job.note("the clock is 3 s late")
    with JsonScreen(lines.append, Showing(as_json=True), clock) as screen:
        for event in job._events:
            screen.show(event)
        for moment in (0.0, 0.9, 1.0):
            clock.now = 1000.0 + moment
            screen.show(newest(job))
        finish(job)
        screen.show(job._events[-1])
    documents = [json.loads(line) for line in lines]
    assert {each["job"] for each in documents} == {job.id}
    assert [(each["type"], each.get("state")) for each in documents] == [
        *(("progress", state) for state in ("queued", "checking", "bundling")),
        ("note", None),
        *(("progress", "bundling"),) * 2,
        ("result", "done"),
    ]
    assert documents[-2]["stored_share"] == 0.75


@pytest.mark.parametrize(
    ("shown", "kept"),
    [(Showing(), 3), (Showing(progress=False), 1), (Showing(progress=False, notes=False), 0)],
)
def test_less_is_shown(shown: Showing, kept: int) -> None:
    """Without progress the notes remain, and a quiet command shows none of both; in words as in JSON."""
    begin(job := make_job())
    job.note("the clock is 3 s late")
    for kind in (PlainScreen, JsonScreen):
        lines: list[str] = []
        with kind(lines.append, shown, Clock()) as screen:
            for event in job._events[-1:]:
                screen.show(event)
            screen.show(newest(job))
        assert len(lines) == kept


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (size_text(1023), "1023 B"),
        (size_text(1536), "1.5 KiB"),
        (size_text(10 * 1024**3), "10.0 GiB"),
        (rate_text(1024**3, 2.0), "512.0 MiB/s"),
        (rate_text(1, 0), "-"),
        (duration_text(59.94), "59.9 s"),
        (duration_text(61.6), "1m 02s"),
        (duration_text(2 * 3600 + 180), "2h 03m"),
        (share_text(3.4, 1.0), "340 %"),
        (share_text(1, 0), "-"),
    ],
)
def test_units(text: str, expected: str) -> None:
    """Sizes and rates are binary, durations as short as is useful; what cannot be divided is a dash."""
    assert text == expected
