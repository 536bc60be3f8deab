"""Results and numbers of a fleet, as text and as counts."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest

from amistream.cli.fleet_results import (
    FleetStatus,
    document_of,
    last_of_each,
    read_result,
    results_text,
    status_line,
    status_text,
    tally,
)
from amistream.events import State
from cli.fleet_documents import NOON, result

DONE = result("web-1")


@pytest.mark.parametrize(
    "body",
    [
        DONE.model_dump_json(),
        json.dumps({"detail-type": "amistream job done", "detail": json.loads(DONE.model_dump_json())}),
        json.dumps({"Type": "Notification", "Message": DONE.model_dump_json()}),
    ],
    ids=["as it is", "EventBridge", "SNS"],
)
def test_every_way_of_a_result(body: str) -> None:
    """A result is read as a host sent it, and from the envelopes of EventBridge and SNS."""
    assert read_result(body) == DONE
    assert json.loads(document_of(body)) == json.loads(DONE.model_dump_json())


def test_a_result_of_a_later_version() -> None:
    """Fields that are not known, and a result of another form, do not hide the outcome."""
    values = {**json.loads(DONE.model_dump_json()), "weather": "fine", "result": {"kind": "other"}}
    assert read_result(json.dumps(values)) == DONE


@pytest.mark.parametrize("body", ["", "{}", "[]", "null", '"x"', "no json", '{"Message": "x"}', '{"detail": {}}'])
def test_what_is_no_result(body: str) -> None:
    """Other messages in the queue are not taken for results."""
    assert read_result(body) is None


def test_the_last_result_of_a_job_counts() -> None:
    """A job that failed, was sent again and is done counts as done; messages without a name count each."""
    unnamed = [result("", State.REFUSED, minute=minute) for minute in (3, 4)]
    found = [result("a", minute=9), result("b", minute=5), result("a", State.FAILED, minute=1), *unnamed]
    last = last_of_each(found)
    assert [(each.job, each.outcome) for each in last] == [
        ("", State.REFUSED),
        ("", State.REFUSED),
        ("b", State.DONE),
        ("a", State.DONE),
    ]


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


def test_results_as_text() -> None:
    """The table has a line for each result, with the reason of a failure, and their number by outcome."""
    text = results_text([result("a"), result("b", State.FAILED, minute=30)])
    assert "source.missing: cannot read disk.img" in text
    assert "1m 30s" in text
    assert text.endswith("2 results: 1 done, 1 failed")
    assert results_text([]) == "0 results"
