"""The numbers of a fleet, as counts and as text."""

from __future__ import annotations

from datetime import timedelta

import pytest

from amistream.cli.fleet.status import FleetStatus, status_line, status_text, tally
from amistream.events import State
from cli.fleet.documents import NOON, result


def test_the_counts() -> None:
    """Results are counted by host, and the rate is that of the last hour."""
    old = result("old", minute=-120, host="c/3")
    recent = [result(str(minute), minute=minute, host="a/1") for minute in (0, 10, 20)]
    failed = result("bad", State.FAILED, minute=30, host="b/2")
    found = tally([old, *recent, failed], NOON + timedelta(minutes=30))
    assert (found.done, found.failed) == (4, 1)
    assert found.rate_per_hour == pytest.approx(8)
    assert [(each.host, each.done, each.failed) for each in found.hosts] == [
        ("a/1", 3, 0),
        ("b/2", 0, 1),
        ("c/3", 1, 0),
    ]


@pytest.mark.parametrize("minutes", [[], [0]])
def test_no_rate_of_too_few(minutes: list[int]) -> None:
    """One result alone makes no rate."""
    found = [result(str(minute), minute=minute) for minute in minutes]
    assert tally(found, NOON + timedelta(minutes=1)).rate_per_hour is None


def test_the_state_as_text() -> None:
    """The state shows each number, as a table and as a line."""
    found = tally([result("a"), result("b", State.FAILED, minute=30)], NOON + timedelta(minutes=30))
    status = FleetStatus(queue="https://q/1/work", waiting=7, running=3, delayed=1, dead=2, results=found, eta_s=9900)
    text = status_text(status)
    for words in (
        "https://q/1/work",
        "waiting  7",
        "running  3",
        "delayed  1",
        "dead     2",
        "rate     4 an hour",
        "web/1",
    ):
        assert words in text
    assert status_line(status) == "7 waiting, 3 running, 1 done, 1 failed, 2 dead, 4 an hour, about 2h 45m left"
    bare = FleetStatus(queue="q", waiting=0, running=0, delayed=0, dead=None, results=None, eta_s=None)
    assert "no queue for dead letters" in status_text(bare)
    assert "--results" in status_text(bare)
    assert status_line(bare) == "0 waiting, 0 running"
