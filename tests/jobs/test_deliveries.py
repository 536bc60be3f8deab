"""The journal's records of messages and results: found by the next process, and forgotten in time."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from amistream.jobs import deliveries
from amistream.jobs.deliveries import HeldMessage, Notice, Verdict
from amistream.jobs.journal import Journal

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

HELD = HeldMessage(
    message_id="m1",
    name="web",
    queue="https://queue",
    handle="h1",
    body='{"v": 1}',
    attempt=1,
    sent_at=1_800_000_000.0,
    boot="b",
    ends_at=400.0,
    parks_at=41500.0,
)
NOTICE = Notice(notice_id="m1#1", outcome="done", document="{}")


async def test_the_next_process_finds_messages(tmp_path: Path) -> None:
    """Messages are taken over as they were, with job, end and verdict, once their process is gone."""
    async with Journal(tmp_path, by_itself=True) as journal:
        records = journal.deliveries
        assert await records.hold(HELD) is HELD
        await records.submitted("m1", "job-1")
        await records.extended({"m1": 500.0, "gone": 1.0})
        await records.hold(replace(HELD, message_id="m2"))
        await records.settle("m2", Verdict.BURY, "source.missing", None)
        await records.hold(replace(HELD, message_id="m3"))
        await records.over("m3")
        await records.hold(replace(HELD, message_id="m4", sent_at=time.time() - deliveries.LONGEST_KEPT_S - 60))
        async with Journal(tmp_path, by_itself=True) as other:
            assert await other.deliveries.left() == []
    async with Journal(tmp_path, by_itself=True) as journal:
        assert await journal.deliveries.left() == [
            replace(HELD, job_id="job-1", ends_at=500.0),
            replace(HELD, message_id="m2", verdict=Verdict.BURY, code="source.missing"),
        ]


async def test_a_verdict_outlives_a_second_receive(tmp_path: Path) -> None:
    """A message with a verdict keeps it when it comes again; one without is entered anew."""
    async with Journal(tmp_path, by_itself=True) as journal:
        records = journal.deliveries
        await records.hold(HELD)
        again = replace(HELD, handle="h2", attempt=2, ends_at=900.0)
        assert await records.hold(again) is again
        await records.settle("m1", Verdict.BURY, "source.missing", NOTICE)
        third = replace(HELD, handle="h3", attempt=3, ends_at=1200.0)
        known = await records.hold(third)
        assert (known.handle, known.ends_at, known.verdict, known.code) == (
            "h3",
            1200.0,
            Verdict.BURY,
            "source.missing",
        )
        await records.buried("m1")
        assert (await records.hold(third)).verdict is Verdict.DELETE
        await records.over("m1")
        assert (await records.hold(third)).verdict is Verdict.OVER


async def test_a_second_receive_of_a_held_message(tmp_path: Path) -> None:
    """The next process finds a message that came twice under its last handle, with its job."""
    again = replace(HELD, handle="h2", attempt=2, ends_at=900.0, parks_at=42000.0)
    async with Journal(tmp_path, by_itself=True) as journal:
        await journal.deliveries.hold(HELD)
        await journal.deliveries.submitted("m1", "job-1")
        await journal.deliveries.received_again(again)
    async with Journal(tmp_path, by_itself=True) as journal:
        assert await journal.deliveries.left() == [replace(again, job_id="job-1")]


async def test_results_wait_until_they_are_sent(tmp_path: Path) -> None:
    """A result is entered with the verdict, once, and stays until it has arrived."""
    async with Journal(tmp_path, by_itself=True) as journal:
        await journal.deliveries.hold(HELD)
        await journal.deliveries.submitted("m1", "job-1")
        assert not await journal.deliveries.is_settled("job-1")
        for _ in range(2):
            await journal.deliveries.settle("m1", Verdict.DELETE, "", NOTICE)
    async with Journal(tmp_path, by_itself=True) as journal:
        records = journal.deliveries
        assert await records.is_settled("job-1")
        assert (await records.count_unsent(), await records.unsent(10)) == (1, [NOTICE])
        await records.sent(["m1#1"])
        assert (await records.count_unsent(), await records.unsent(10)) == (0, [])


async def test_messages_are_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of messages that are dealt with the newest are remembered; one without a verdict is forgotten on request."""
    monkeypatch.setattr(deliveries, "REMEMBERED", 2)
    async with Journal(tmp_path, by_itself=True) as journal:
        records = journal.deliveries
        for number in range(4):
            await records.hold(replace(HELD, message_id=f"m{number}", sent_at=HELD.sent_at + number))
            await records.over(f"m{number}")
        known = [(await records.hold(replace(HELD, message_id=f"m{number}"))).verdict for number in range(4)]
        assert known == [None, None, Verdict.OVER, Verdict.OVER]
        await records.forget("m0")
        await records.forget("m3")
    async with Journal(tmp_path, by_itself=True) as journal:
        assert [held.message_id for held in await journal.deliveries.left()] == ["m1"]
        assert (await journal.deliveries.hold(replace(HELD, message_id="m3"))).verdict is Verdict.OVER
