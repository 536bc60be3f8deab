"""The state of a fleet: its messages and results as numbers, and those as text. Nothing here uses the network."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from pydantic import BaseModel, ConfigDict, Field

from amistream.cli.table import columns
from amistream.events import State
from amistream.fleet.results import ResultModel
from amistream.units import HOUR_S, duration_text, time_text

WINDOW = timedelta(hours=1)
"""The rate is that of the jobs that ended within this time."""


class HostTally(BaseModel):
    """The results of one host."""

    model_config = ConfigDict(frozen=True)

    host: str
    done: int
    failed: int
    last_at: datetime = Field(description="the end of its last job")


class Tally(BaseModel):
    """The results so far: of each job the last one counts."""

    model_config = ConfigDict(frozen=True)

    done: int
    failed: int
    rate_per_hour: float | None = Field(description="jobs that ended per hour, over the last hour; null if too few did")
    hosts: tuple[HostTally, ...]


class FleetStatus(BaseModel):
    """The state of a queue and of its jobs. Numbers of messages are approximate, as SQS gives them."""

    model_config = ConfigDict(frozen=True)

    queue: str
    waiting: int = Field(description="messages that no host has received yet")
    running: int = Field(description="messages that a host holds")
    delayed: int
    dead: int | None = Field(description="dead letters; null if the queue has no queue for them")
    results: Tally | None = Field(description="null if the results are not in a queue")
    eta_s: float | None = Field(description="seconds until all are done, at the present rate; null if it is not known")


def tally(results: Sequence[ResultModel], now: datetime) -> Tally:
    """Count the results, of which each job has one."""
    by_host: dict[str, list[ResultModel]] = {}
    for each in results:
        by_host.setdefault(each.host, []).append(each)
    return Tally(
        done=_done(results),
        failed=len(results) - _done(results),
        rate_per_hour=_rate_per_hour([each.ended_at for each in results], now),
        hosts=tuple(
            HostTally(host=host, done=_done(own), failed=len(own) - _done(own), last_at=own[-1].ended_at)
            for host, own in sorted(by_host.items())
        ),
    )


def _done(results: Sequence[ResultModel]) -> int:
    return sum(each.outcome is State.DONE for each in results)


def _rate_per_hour(ends: Sequence[datetime], now: datetime) -> float | None:
    recent = sorted(end for end in ends if now - WINDOW <= end <= now)
    # One end alone has no duration.
    span = (now - recent[0]).total_seconds() if len(recent) > 1 else 0.0
    return len(recent) * HOUR_S / span if span else None


def status_text(status: FleetStatus) -> str:
    """Format the state of the queue, then the hosts that reported."""
    facts = [
        ("queue", status.queue),
        ("waiting", str(status.waiting)),
        ("running", str(status.running)),
        *([("delayed", str(status.delayed))] if status.delayed else []),
        ("dead", "the queue has no queue for dead letters" if status.dead is None else str(status.dead)),
    ]
    found = status.results
    if found is None:
        facts.append(("done", "not known: the results are not in a queue (--results sqs:URL)"))
        return columns(facts)
    facts += [("done", str(found.done)), ("failed", str(found.failed))]
    if found.rate_per_hour is not None:
        facts.append(("rate", f"{found.rate_per_hour:.0f} an hour"))
    if status.eta_s is not None:
        facts.append(("left", f"about {duration_text(status.eta_s)}"))
    blocks = [columns(facts)]
    if found.hosts:
        rows = [(str(each.done), str(each.failed), time_text(each.last_at), each.host) for each in found.hosts]
        blocks.append(columns([("DONE", "FAILED", "LAST RESULT", "HOST"), *rows]))
    return "\n\n".join(blocks)


def status_line(status: FleetStatus) -> str:
    """Format the state of the queue as one line."""
    words = [f"{status.waiting} waiting", f"{status.running} running"]
    if status.results is not None:
        words += [f"{status.results.done} done", f"{status.results.failed} failed"]
    if status.dead:
        words.append(f"{status.dead} dead")
    if status.results is not None and status.results.rate_per_hour is not None:
        words.append(f"{status.results.rate_per_hour:.0f} an hour")
    if status.eta_s is not None:
        words.append(f"about {duration_text(status.eta_s)} left")
    return ", ".join(words)
