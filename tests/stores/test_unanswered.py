"""The time for which a request without an answer counts."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from amistream.ports.unanswered import LIFE_S, Unanswered

if TYPE_CHECKING:
    import pytest


def test_a_clock_that_was_set_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request counts on when the clock is set back, and never for longer than it lives."""
    now = time.time()

    def set_clock(moment: float) -> None:
        monkeypatch.setattr(time, "time", lambda: moment)

    set_clock(now)
    requests = Unanswered()
    requests.given_up("part")
    for back_s in (2, 3600):
        set_clock(now - back_s)
        assert requests.late == {"part": (now - back_s + LIFE_S,)}
    set_clock(now - 3600 + LIFE_S)
    assert requests.late == {}
