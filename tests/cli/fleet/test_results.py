"""Results of a fleet: read, and as text."""

from __future__ import annotations

import json

import pytest

from amistream.cli.fleet.results import document_of, last_of_each, read_result, results_text
from amistream.events import State
from cli.fleet.documents import result

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


def test_results_as_text() -> None:
    """The table has a line for each result, with the reason of a failure, and their number by outcome."""
    text = results_text([result("a"), result("b", State.FAILED, minute=30)])
    assert "source.missing: cannot read disk.img" in text
    assert "1m 30s" in text
    assert text.endswith("2 results: 1 done, 1 failed")
    assert results_text([]) == "0 results"
