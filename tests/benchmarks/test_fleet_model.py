"""The fleet on paper."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.fleet_model import MOST_IN_FLIGHT, Assumptions, most_hosts, on_paper, table
from benchmarks.scenarios.fleet import ON_PAPER

PAGE = Path(__file__).parents[2] / "docs" / "many-hosts.md"


def test_the_figures() -> None:
    """Rates grow with the hosts, the price of a job does not, and as many hosts as fit fill the queue's limit."""
    assumed = Assumptions(job_s=100, jobs_at_once=2, visibility_s=300)
    one, many = on_paper(1, assumed), on_paper(10_000, assumed)
    assert (one.jobs_per_hour, many.in_flight) == (72, 20_000)
    assert many.busy_requests == pytest.approx(10_000 * (2 / 100 * 5 + 3 / 300))
    assert many.idle_requests / 10_000 * 3600 < 200
    assert one.usd_per_1000_jobs == pytest.approx(many.usd_per_1000_jobs)
    assert on_paper(most_hosts(assumed), assumed).in_flight == MOST_IN_FLIGHT


def test_the_table_of_the_manual() -> None:
    """The page has the table that the defaults give."""
    assert "\n".join(table(ON_PAPER, Assumptions())) in PAGE.read_text()
