"""The table of outcomes: what becomes of a message when its job has ended."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import amistream
from amistream.aws.error_table import TABLE, is_transient
from amistream.events import State
from amistream.fleet.outcomes import PASSING, Ending, Fate, fate_of, may_pass

FILES = sorted(Path(amistream.__file__).parent.rglob("*.py"))
SOURCES = "\n".join(path.read_text() for path in FILES if path.name != "outcomes.py")
ENDS = [state for state in State if state.ended]


@pytest.mark.parametrize(
    ("ending", "fate"),
    [
        ({"state": State.DONE}, Fate.DONE),
        ({"state": State.DONE, "is_stopping": True, "is_last": True}, Fate.DONE),
        ({"state": State.DONE, "is_parked": True}, Fate.DONE),
        ({"state": State.INTERRUPTED, "is_parked": True}, Fate.BACK_NOW),
        ({"state": State.INTERRUPTED, "is_stopping": True}, Fate.BACK_NOW),
        ({"state": State.INTERRUPTED, "is_stopping": True, "is_last": True}, Fate.DEAD),
        ({"state": State.INTERRUPTED, "is_parked": True, "is_last": True}, Fate.DEAD),
        ({"state": State.INTERRUPTED, "code": "journal.full"}, Fate.BACK_LATER),
        ({"state": State.CANCELLED, "is_stopping": True}, Fate.BACK_NOW),
        ({"state": State.CANCELLED}, Fate.DEAD),
        ({"state": State.FAILED, "code": "aws.AccessDenied"}, Fate.DEAD),
        ({"state": State.FAILED, "code": "aws.AccessDenied", "resumable": True}, Fate.BACK_LATER),
        ({"state": State.FAILED, "code": "aws.AccessDenied", "resumable": True, "is_last": True}, Fate.DEAD),
        ({"state": State.FAILED, "code": "aws.SlowDown"}, Fate.BACK_LATER),
        ({"state": State.FAILED, "code": "aws.SlowDown", "is_last": True}, Fate.DEAD),
        ({"state": State.FAILED, "code": "bundle.part.missing"}, Fate.DEAD),
        ({"state": State.FAILED, "code": "internal.bug"}, Fate.DEAD),
        ({"state": State.REFUSED, "code": "source.missing"}, Fate.DEAD),
        ({"state": State.REFUSED, "code": "aws.unreachable"}, Fate.BACK_LATER),
        ({"state": State.REFUSED, "code": "aws.credentials"}, Fate.BACK_LATER),
        ({"state": State.REFUSED, "code": "job.same_destination"}, Fate.BACK_LATER),
        ({"state": State.REFUSED, "code": "message.malformed"}, Fate.DEAD),
    ],
)
def test_the_table(ending: dict[str, Any], fate: Fate) -> None:
    """Each line of the table."""
    assert fate_of(Ending(**ending)) is fate


@pytest.mark.parametrize("state", ENDS)
def test_a_lost_lease_comes_first(state: State) -> None:
    """A message of another host is left alone, however the job ended."""
    assert fate_of(Ending(state=state, lease_lost=True)) is Fate.LEFT
    assert fate_of(Ending(state=state, code="lease.lost", resumable=True, is_stopping=True)) is Fate.LEFT


def test_the_codes_exist() -> None:
    """Each code after which a repeat may help is one that the program or AWS has."""
    ours = {code for code in PASSING if not code.startswith("aws.")}
    assert [code for code in sorted(ours) if f'"{code}"' not in SOURCES] == []
    theirs = {code.removeprefix("aws.") for code in PASSING - ours} - {"ca_bundle", "proxy"}
    assert theirs <= TABLE.keys()


def test_transient_codes_of_aws() -> None:
    """A row that a repeat may help makes its codes pass, under the name that is shown."""
    for code, row in TABLE.items():
        if row.transient:
            assert may_pass(f"aws.{row.shown_as or code}"), code
    assert not is_transient("aws.AccessDenied")
    assert is_transient("aws.HTTP503")
    assert not is_transient("SlowDown")
