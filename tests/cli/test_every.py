"""`convert --every` takes up the jobs of earlier commands, and one bundle's failure stops no other."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime

import pytest

from amistream.bundles.results import ConvertibleBundle
from amistream.cli.every import convert_every, outcomes_text, plan
from amistream.errors import BusyError, DaemonUnreachableError
from amistream.events import ErrorBody, Event, JobKind, JobView, State
from amistream.request.convert import ConvertRequest

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def view(number: int, source: str, state: State, *, resumable: bool = False, error: str = "") -> JobView:
    return JobView(
        id=f"job-{number}",
        kind=JobKind.CONVERT,
        state=state,
        source=source,
        destinations=(),
        created_at=NOW,
        started_at=NOW,
        ended_at=NOW if state.ended else None,
        progress=None,
        notices=(),
        result=None,
        error=ErrorBody(code="a.code", message=error) if error else None,
        resumable=resumable,
    )


class ScriptedDesk:
    """Jobs that end as the script says: by their source, `done` for all others."""

    def __init__(self, *earlier: JobView, ends: dict[str, JobView] | None = None, refuses: Sequence[str] = ()) -> None:
        self.earlier = earlier
        self.calls: list[str] = []
        self.keys: list[str] = []
        self._ends = ends or {}
        self._refuses = refuses
        self._sources = {job.id: job.source for job in earlier}

    async def jobs(self) -> Sequence[JobView]:
        return self.earlier

    async def submit(self, request: ConvertRequest, key: str) -> str:
        self.calls.append(f"submit {request.source}")
        self.keys.append(key)
        if request.source in self._refuses:
            raise BusyError("daemon.full", "cannot take the job: too many wait")
        job_id = f"new-{len(self.keys)}"
        self._sources[job_id] = request.source
        return job_id

    async def resume(self, job_id: str) -> str:
        self.calls.append(f"resume {job_id}")
        return job_id

    async def events(self, job_id: str) -> AsyncIterator[Event]:
        self.calls.append(f"follow {job_id}")
        source = self._sources[job_id]
        yield Event(id=1, type="state", job=self._ends.get(source, view(1, source, State.DONE)))


def bundles(*names: str) -> list[ConvertibleBundle]:
    return [ConvertibleBundle(manifest=f"s3://b/{name}", image_size=1, image_id="") for name in names]


def make(source: str) -> ConvertRequest:
    return ConvertRequest(kind=JobKind.CONVERT, source=source)


async def ends(desk: ScriptedDesk, found: Sequence[ConvertibleBundle]) -> list[str]:
    told: list[str] = []
    outcomes = await convert_every(desk, found, make, at_once=1, tell=told.append)
    assert len(outcomes_text(outcomes).splitlines()) == len(found) + 3
    return [each.state for each in outcomes.bundles]


async def test_earlier_jobs_are_taken_up() -> None:
    """A job that runs is followed, one that was cut short resumed; after one that failed another one begins."""
    desk = ScriptedDesk(
        view(1, "s3://b/runs", State.CONVERTING),
        view(2, "s3://b/stopped", State.FAILED, resumable=True),
        view(3, "s3://b/failed", State.FAILED),
        view(4, "/other", State.CONVERTING),
    )
    assert await ends(desk, bundles("runs", "stopped", "failed", "new")) == ["done"] * 4
    assert desk.calls == [
        *("follow job-1", "resume job-2", "follow job-2"),
        *("submit s3://b/failed", "follow new-1", "submit s3://b/new", "follow new-2"),
    ]


async def test_a_key_names_the_bundle_and_its_tries() -> None:
    """Two commands at the same time begin one job; a further try after a failure is another one."""
    first, same = ScriptedDesk(), ScriptedDesk()
    again = ScriptedDesk(view(1, "s3://b/a", State.FAILED))
    for desk in (first, same, again):
        await ends(desk, bundles("a"))
    assert first.keys == same.keys != again.keys


async def test_a_failure_stops_no_other() -> None:
    """Failed, refused and broken bundles are reported beside those that are done or were."""
    found = [
        *bundles("fails", "busy", "good"),
        ConvertibleBundle(manifest="s3://b/there", image_size=1, image_id="ami-1"),
        ConvertibleBundle(manifest="s3://b/broken", image_size=1, image_id="", problem="a part is missing"),
    ]
    failing = {"s3://b/fails": view(1, "s3://b/fails", State.FAILED, error="no way")}
    desk = ScriptedDesk(ends=failing, refuses=["s3://b/busy"])
    assert await ends(desk, found) == ["failed", "refused", "done", "there", "broken"]
    planned = plan(found, {"s3://b/fails": "no way", "s3://b/busy": "", "s3://b/good": ""}.__getitem__)
    assert [each.state for each in planned.bundles] == ["refused", "waiting", "waiting", "there", "broken"]
    assert "s3://b/fails  <- no way" in outcomes_text(planned)


async def test_without_a_daemon_all_ends() -> None:
    """A daemon that is gone is the end of the command."""

    class Gone(ScriptedDesk):
        async def jobs(self) -> Sequence[JobView]:
            raise DaemonUnreachableError("daemon.unreachable", "cannot reach the daemon")

    with pytest.raises(DaemonUnreachableError):
        await ends(Gone(), bundles("a", "b"))
