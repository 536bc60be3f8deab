"""A fleet on paper: what many hosts ask of one queue, and what that costs, from the limits and prices of SQS.

Pure arithmetic. Its inputs are the times that the daemon uses, and two measured figures; its assumptions are the
defaults of `Assumptions`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from amistream.fleet.intake import LONGEST_POLL_S
from amistream.settings import Settings

MOST_IN_FLIGHT = 120_000
"""Messages of one standard queue that may be held. AWS limit."""
USD_PER_MILLION = 0.40
"""Of requests to a standard queue, after the first million of a month; us-east-1, 2026. Each batch is one request."""
_HOUR_S = 3600
_MONTH_S = 30 * 24 * _HOUR_S


@dataclass(frozen=True, slots=True, kw_only=True)
class Assumptions:
    """All hosts have work without a pause, or none of them has."""

    job_s: float = 300.0
    """Duration of a job: a bundle of some GB is verified deeply, or converted, in about so long."""
    jobs_at_once: int = Settings().queue_jobs
    visibility_s: int = Settings().queue_visibility_s
    poll_s: float = LONGEST_POLL_S
    pause_s: float = 1.5
    """Between two polls that found nothing, on average."""
    calls_per_job: float = 3.0
    """A receive, a result and a deletion, each for one job alone: the most that it can be."""
    confirmations: float = 2.0
    """Extensions before the commit points of a job that stores something; a verification has none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OnPaper:
    """The work of so many hosts together. Rates are per second."""

    hosts: int
    idle_requests: float
    idle_usd_per_month: float
    jobs_per_hour: float
    in_flight: int
    busy_requests: float
    usd_per_1000_jobs: float


def on_paper(hosts: int, assumed: Assumptions) -> OnPaper:
    """The figures of so many hosts."""
    idle = hosts / (assumed.poll_s + assumed.pause_s)
    jobs = hosts * assumed.jobs_at_once / assumed.job_s
    beats = hosts * 3 / assumed.visibility_s
    busy = jobs * (assumed.calls_per_job + assumed.confirmations) + beats
    in_flight = hosts * assumed.jobs_at_once
    return OnPaper(
        hosts=hosts,
        idle_requests=idle,
        idle_usd_per_month=idle * _MONTH_S / 1e6 * USD_PER_MILLION,
        jobs_per_hour=jobs * _HOUR_S,
        in_flight=in_flight,
        busy_requests=busy,
        usd_per_1000_jobs=busy / jobs * 1000 / 1e6 * USD_PER_MILLION,
    )


def most_hosts(assumed: Assumptions) -> int:
    """The hosts that one queue can have before its messages in flight are too many."""
    return MOST_IN_FLIGHT // assumed.jobs_at_once


def table(fleets: Sequence[int], assumed: Assumptions) -> list[str]:
    """The lines of a table in Markdown."""
    lines = [
        "| hosts | idle: requests/s | USD a month | busy: jobs an hour | in flight | requests/s | USD for 1000 jobs |",
        "|---|---|---|---|---|---|---|",
    ]
    for each in (on_paper(hosts, assumed) for hosts in fleets):
        idle = f"{each.idle_requests:,.3g} | {each.idle_usd_per_month:,.2f}"
        busy = f"{each.jobs_per_hour:,.0f} | {each.in_flight:,} | {each.busy_requests:,.3g}"
        lines.append(f"| {each.hosts:,} | {idle} | {busy} | {each.usd_per_1000_jobs:.4f} |")
    return lines
