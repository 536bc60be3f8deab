"""The intake: what it takes, what becomes of each message, and what it says when the queue is in trouble."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest

from amistream.errors import DeniedError, JobError, JournalError, StalledError, StoreError
from amistream.events import State
from amistream.fleet import outbox
from amistream.fleet.lease import Terms
from amistream.fleet.results import result_of_refusal
from amistream.jobs.deliveries import DeliveryRecords, HeldMessage
from amistream.settings import OnStop
from fleet.memory_queue import MemoryQueue, put_forward
from fleet.rig import URL, has_ended, message, running

if TYPE_CHECKING:
    from pathlib import Path

AWAY = StalledError("store.stalled", "cannot reach the queue", transient=True)


def now() -> float:
    return asyncio.get_running_loop().time()


async def test_done(tmp_path: Path) -> None:
    """A job that is done has a result, and its message is deleted."""
    async with running(tmp_path) as rig:
        message_id = rig.send("web", label="nightly")
        job = await rig.begun()
        assert (job.name, job.confined, job.user) == ("web", True, None)
        assert rig.intake.health().jobs == 1
        await rig.hands.end(job)
        await rig.settle()
        (result,) = rig.results
        assert (result["sent_as"], result["message"]) == (("web#done", "done"), message_id)
        assert {name: result[name] for name in ("job", "label", "outcome", "code", "host", "attempt", "job_id")} == {
            "job": "web",
            "label": "nightly",
            "outcome": "done",
            "code": "",
            "host": "host-a/1",
            "attempt": 1,
            "job_id": job.id,
        }
        assert (result["queue"], result["kind"]) == (URL, "bundle")
        assert rig.queue.waiting == {}
        assert rig.dead.waiting == {}
        assert rig.intake.health().jobs == 0
        # One to receive and one to delete, besides the first look at the policy and the next poll.
        assert rig.queue.calls["delete"] == 1
        assert rig.queue.calls["extend"] == 0


@pytest.mark.parametrize(
    ("body", "code", "job"),
    [
        ("not JSON", "message.malformed", ""),
        (message("web", extra=1), "message.malformed", "web"),
        (message("web", request={"source": "/volumes/a"}), "request.invalid", "web"),
        (message("web", deadline="2020-01-01T00:00:00Z"), "message.deadline", "web"),
        (
            message("web", request={"source": "/etc/shadow", "destinations": ["/bundles/a"]}),
            "access.queue_sources",
            "web",
        ),
    ],
)
async def test_refused_unread(body: str, code: str, job: str, tmp_path: Path) -> None:
    """A message that cannot become a job has a result with the code, and is a dead letter with it."""
    async with running(tmp_path) as rig:
        rig.queue.put(body)
        await rig.queue.wait_until(lambda: not rig.queue.waiting)
        await rig.settle()
        (result,) = rig.results
        assert (result["outcome"], result["code"], result["job"], result["job_id"]) == ("refused", code, job, "")
        assert result["error"]["message"].startswith("cannot ")
        (letter,) = rig.dead.waiting.values()
        assert (letter.body, letter.attributes["code"], letter.attributes["job"]) == (body, code, job)
        assert rig.jobs.jobs() == []


async def test_a_newer_version_is_left_to_others(tmp_path: Path) -> None:
    """A message of a later version is given back, without a result, for a host that knows it."""
    async with running(tmp_path) as rig:
        message_id = rig.send(v=2)
        await rig.queue.wait_until(lambda: rig.intake.counts.given_back == 1)
        assert message_id in rig.queue.waiting
        assert rig.queue.waiting[message_id].visible_at > now() + 10
        assert rig.results == []
        assert rig.dead.waiting == {}


async def test_a_cancelled_job(tmp_path: Path) -> None:
    """A job that somebody cancels on the host is over: result, dead letter with the job's id."""
    async with running(tmp_path) as rig:
        job = await rig.begin()
        await rig.jobs.cancel(job.id)
        await rig.queue.wait_until(lambda: not rig.queue.waiting)
        await rig.settle()
        assert rig.results[0]["outcome"] == "cancelled"
        (letter,) = rig.dead.waiting.values()
        assert (letter.attributes["job_id"], letter.attributes["host"]) == (job.id, "host-a/1")
        assert rig.intake.counts.dead == 1


async def test_a_resumable_failure(tmp_path: Path) -> None:
    """A job that failed and kept its parts is given back, and goes on at its next receive under a new lease."""
    async with running(tmp_path) as rig:
        job = await rig.begin()
        await rig.hands.end(job, State.FAILED)
        await rig.queue.wait_until(lambda: rig.intake.counts.given_back == 1)
        assert rig.results == []
        await rig.pass_time(35)
        again = await rig.begun()
        assert (again.id, again.ran_before) == (job.id, True)
        assert again.lease is not None
        assert again.lease.attempt == 2
        assert rig.intake.counts.redelivered == 1
        await rig.hands.end(again)
        await rig.settle()
        assert [(result["outcome"], result["attempt"]) for result in rig.results] == [("done", 2)]
        assert rig.queue.waiting == {}


async def test_given_back_before_it_made_anything(tmp_path: Path) -> None:
    """A job that is given back with nothing to go on with is over on this host, and begins anew when it comes again."""
    async with running(tmp_path) as rig:
        rig.hands.keeps = False
        job = await rig.begin()
        await rig.hands.end(job, State.FAILED)
        await rig.settle()
        (left,) = rig.jobs.jobs()
        assert (left.id, left.state, left.resumable) == (job.id, State.FAILED, False)
        await rig.pass_time(35)
        again = await rig.begun()
        assert again.id != job.id
        await rig.hands.end(again)
        await rig.settle()
        assert [result["outcome"] for result in rig.results] == ["done"]


async def test_the_last_receive(tmp_path: Path) -> None:
    """A failure at the last receive is a result and a dead letter with its code: the queue itself would tell nobody."""
    async with running(tmp_path, most_receives=1) as rig:
        job = await rig.begin()
        await rig.hands.end(job, State.FAILED)
        await rig.queue.wait_until(lambda: not rig.queue.waiting)
        await rig.settle()
        assert rig.results[0]["outcome"] == "failed"
        (letter,) = rig.dead.waiting.values()
        assert letter.attributes["code"] == "job.failed"


async def test_given_back_after_the_last_receive(tmp_path: Path) -> None:
    """A message that would be given back after its last receive gets a result and a dead letter with the code."""
    async with running(tmp_path, most_receives=1) as rig:
        job = await rig.begin("web")
        # Sent twice: the other message has the result.
        rig.send("web")
        rig.send("newer", v=2)
        await rig.queue.wait_until(lambda: list(rig.queue.waiting) == ["m1"])
        rig.intake.stop()
        rig.hurry.set()
        await rig.running
        assert await has_ended(job) is State.INTERRUPTED
        assert {each["id"]: each["code"] for each in rig.results} == {
            "m3#refused": "message.newer",
            "m1#failed": "lease.given_back",
        }
        letters = [(each.attributes["job"], each.attributes["code"]) for each in rig.dead.waiting.values()]
        assert letters == [("newer", "message.newer"), ("web", "lease.given_back")]
        assert (rig.queue.waiting, rig.intake.counts.dead, rig.intake.counts.given_back) == ({}, 2, 0)


async def test_a_journal_that_fails_at_the_last_receive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A message that cannot be entered at its last receive is a dead letter with the code of that, without a result."""

    async def fail(*_: object) -> None:
        raise JournalError("journal.full", "cannot write the journal: the disk is full")

    async with running(tmp_path, most_receives=1) as rig:
        monkeypatch.setattr(DeliveryRecords, "hold", fail)
        rig.send("web")
        await rig.queue.wait_until(lambda: not rig.queue.waiting)
        await rig.settle()
        (letter,) = rig.dead.waiting.values()
        assert (letter.attributes["code"], rig.results, rig.hands.calls) == ("journal.full", [], [])


async def test_a_lost_lease(tmp_path: Path) -> None:
    """A job whose lease is not confirmed is interrupted; its message is neither deleted nor given back."""
    async with running(tmp_path) as rig:
        job = await rig.begin()
        rig.queue.faults["extend"] = AWAY
        await rig.pass_time(272)
        assert await has_ended(job) is State.INTERRUPTED
        await rig.settle()
        assert rig.intake.leases_lost == 1
        assert (rig.results, rig.queue.calls["delete"], rig.queue.calls["give_back"]) == ([], 0, 0)
        # When it comes again, here, the job goes on.
        del rig.queue.faults["extend"]
        await rig.pass_time(60)
        again = await rig.begun()
        assert (again.id, again.lease is not job.lease) == (job.id, True)
        await rig.hands.end(again)
        await rig.settle()
        assert [result["attempt"] for result in rig.results] == [2]


async def test_a_message_that_cannot_be_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job that cannot be entered with its message has ended before the message is given back, and goes on later."""
    async with running(tmp_path) as rig:

        async def fail(*_: object) -> None:
            await rig.begun()
            raise JournalError("journal.failed", "cannot write the journal: the disk is full")

        with monkeypatch.context() as patched:
            patched.setattr(DeliveryRecords, "submitted", fail)
            rig.queue.held["extend"] = asyncio.Event()
            rig.send("web")
            await rig.queue.wait_call("extend")
            (job,) = rig.jobs.jobs()
            assert job.state is State.INTERRUPTED
            assert (rig.results, list(rig.queue.waiting)) == ([], ["m1"])
        rig.queue.held.pop("extend").set()
        await rig.settle()
        await rig.pass_time(35)
        again = await rig.begun()
        assert again.id == job.id
        await rig.hands.end(again)
        await rig.settle()
        assert [result["outcome"] for result in rig.results] == ["done"]


async def test_parked(tmp_path: Path) -> None:
    """A job that the queue lets nobody hold any longer is given back at once, and goes on."""
    async with running(tmp_path, terms=Terms(visibility_s=300, park_after_s=120)) as rig:
        job = await rig.begin()
        await rig.pass_time(122)
        assert await has_ended(job) is State.INTERRUPTED
        again = await rig.begun()
        assert again.id == job.id
        assert rig.intake.counts.given_back == 1
        assert rig.intake.leases_lost == 0
        await rig.hands.end(again)
        await rig.settle()


async def test_a_second_delivery_of_a_running_job(tmp_path: Path) -> None:
    """A message that comes again while its job runs here is held by its new handle, and the job goes on."""
    async with running(tmp_path) as rig:
        job = await rig.begin("web")
        rig.queue.hand_out_again("m1")
        await rig.queue.wait_until(lambda: rig.queue.waiting["m1"].handle == "m1/2")
        await rig.pass_time(700)
        assert (rig.intake.messages, rig.intake.leases_lost, rig.queue.calls["give_back"]) == (1, 0, 0)
        assert rig.queue.waiting["m1"].receives == 2
        await rig.hands.end(job)
        await rig.settle()
        assert [result["outcome"] for result in rig.results] == ["done"]
        assert (rig.queue.waiting, rig.hands.calls) == ({}, [("run", job.id)])


async def test_places(tmp_path: Path) -> None:
    """No more messages are received than jobs can begin, however many wait."""
    async with running(tmp_path, queue_jobs=2, max_jobs=2) as rig:
        for number in range(4):
            rig.send(f"job-{number}")
        first, second = await rig.begun(), await rig.begun()
        await rig.turn()
        assert sum(each.receives for each in rig.queue.waiting.values()) == 2
        assert rig.intake.health().places == 0
        await rig.hands.end(first)
        third = await rig.begun()
        assert third.name == "job-2"
        for job in (second, third):
            await rig.hands.end(job)
        await rig.hands.end(await rig.begun())
        await rig.settle()
        assert sorted(result["job"] for result in rig.results) == [f"job-{number}" for number in range(4)]
        assert all(each <= 2 for call, each in rig.queue.asked if call == "receive" and isinstance(each, int))


async def test_jobs_of_the_socket_come_first(tmp_path: Path) -> None:
    """While jobs of the socket take all places no message is received."""
    async with running(tmp_path, max_jobs=1) as rig:
        own = await rig.begin("first")
        rig.send("second")
        await rig.pass_time(5)
        assert rig.queue.waiting["m2"].receives == 0
        await rig.hands.end(own)
        await rig.pass_time(3)
        await rig.hands.end(await rig.begun())


async def test_the_same_job_twice(tmp_path: Path) -> None:
    """A second message of a running job waits, and of a job that is done is deleted without a second result."""
    async with running(tmp_path) as rig:
        job = await rig.begin("web")
        rig.send("web")
        await rig.queue.wait_until(lambda: rig.intake.counts.given_back == 1)
        await rig.hands.end(job)
        await rig.queue.wait_until(lambda: len(rig.queue.waiting) == 1)
        await rig.pass_time(40)
        await rig.queue.wait_until(lambda: not rig.queue.waiting)
        await rig.settle()
        assert [result["job"] for result in rig.results] == ["web"]
        assert rig.hands.calls == [("run", job.id)]


async def test_a_host_dies_after_its_result(tmp_path: Path) -> None:
    """A host that dies before it deletes the message is followed by one that sends the same result under the same id.

    So is the result of a failure, whatever its attempt is, and of a further message of a job that is done.
    """
    ids, queue = [], MemoryQueue()
    queue.put(message("web"))
    queue.put(message("db", request={"source": "/etc/db", "destinations": ["/bundles/db"]}))
    for host in ("a", "b"):
        async with running(tmp_path / host, queue, kill=host == "a") as rig:
            if host == "a":
                queue.faults["delete"] = rig.dead.faults["send"] = AWAY
            await rig.hands.end(await rig.begun())
            await queue.wait_until(lambda rig=rig: len(rig.results) == 2)  # type: ignore[misc]
            if host == "b":
                await queue.wait_until(lambda: not queue.waiting)
                await rig.settle()
            ids += [result["id"] for result in sorted(rig.results, key=lambda each: str(each["outcome"]))]
        put_forward(310)
        queue.faults.clear()
    assert ids == ["web#done", "m2#refused"] * 2


async def test_two_messages_of_a_job_at_once(tmp_path: Path) -> None:
    """Of two messages of one name in one receive one begins the job, and the other waits."""
    queue = MemoryQueue()
    for _ in range(2):
        queue.put(message("web", kind="verify", request={"manifest": "/volumes/web.manifest.xml"}))
    async with running(tmp_path, queue) as rig:
        job = await rig.begun()
        await queue.wait_until(lambda: rig.intake.counts.given_back == 1)
        assert [each.id for each in rig.jobs.jobs()] == [job.id]
        await rig.hands.end(job)
        await rig.pass_time(40)
        await queue.wait_until(lambda: not queue.waiting)
        await rig.settle()
        assert [result["outcome"] for result in rig.results] == ["done"]
        assert rig.hands.calls == [("run", job.id)]


async def test_a_name_with_another_request(tmp_path: Path) -> None:
    """A name that was used for another request is refused."""
    async with running(tmp_path) as rig:
        await rig.hands.end(await rig.begin("web"))
        await rig.settle()
        rig.queue.put(message("web", request={"source": "/volumes/other", "destinations": ["/bundles/other"]}))
        await rig.queue.wait_until(lambda: len(rig.results) == 2)
        assert rig.results[1]["code"] == "job.key_reused"
        await rig.settle()


async def test_a_dead_letter_that_is_sent_again(tmp_path: Path) -> None:
    """A job that was refused or cancelled begins anew when its message is sent once more."""
    async with running(tmp_path) as rig:
        job = await rig.begin("web")
        await rig.jobs.cancel(job.id)
        await rig.queue.wait_until(lambda: bool(rig.results))
        await rig.settle()
        again = await rig.begin("web")
        assert again.id != job.id
        await rig.hands.end(again)
        await rig.settle()
        assert [result["id"] for result in rig.results] == ["m1#cancelled", "web#done"]


@pytest.mark.parametrize("fault", ["delete", "send"])
async def test_a_queue_that_fails_at_the_end(fault: str, tmp_path: Path) -> None:
    """A message that cannot be deleted, or be a dead letter, comes again, and there is no second result."""
    async with running(tmp_path) as rig:
        failing = rig.queue if fault == "delete" else rig.dead
        sends = fault == "send"
        failing.faults[fault] = AWAY
        job = await rig.begin("web")
        await rig.jobs.cancel(job.id)
        await rig.queue.wait_until(lambda: failing.calls[fault] == 1)
        await rig.settle()
        assert (len(rig.queue.waiting), rig.intake.counts.dead) == (1, 0 if sends else 1)
        del failing.faults[fault]
        await rig.pass_time(310)
        await rig.queue.wait_until(lambda: not rig.queue.waiting)
        await rig.settle()
        assert [result["outcome"] for result in rig.results] == ["cancelled"]
        assert len(rig.dead.waiting) == rig.intake.counts.dead == 1
        assert len(rig.hands.calls) == 1


async def test_trouble(tmp_path: Path) -> None:
    """While the queue does not answer, jobs go on, and health has the reason; then all goes on."""
    async with running(tmp_path) as rig:
        job = await rig.begin("web")
        denied = DeniedError("aws.AccessDenied", "cannot receive: access is denied", hint="allow sqs:ReceiveMessage")
        rig.queue.faults["receive"] = denied
        await rig.pass_time(45)
        health = rig.intake.health()
        assert (health.status, [error.code for error in health.errors]) == ("trouble", ["aws.AccessDenied"])
        assert (health.jobs, job.state.ended) == (1, False)
        failed = rig.queue.calls["receive"]
        await rig.pass_time(300)
        assert rig.queue.calls["receive"] - failed < 15
        del rig.queue.faults["receive"]
        # The longest pause, then a poll that finds nothing.
        await rig.pass_time(82)
        assert rig.intake.health().status == "ok"
        await rig.hands.end(job)
        await rig.settle()
        assert [result["outcome"] for result in rig.results] == ["done"]


async def test_results_cannot_be_sent(tmp_path: Path) -> None:
    """A result that is not taken waits in the journal; the message is deleted, and health has the reason."""
    async with running(tmp_path) as rig:
        rig.sink.fault = StoreError("aws.EventBusDoesNotExist", "cannot send the result")
        job = await rig.begin("web")
        await rig.hands.end(job)
        await rig.queue.wait_until(lambda: rig.intake.health().status == "trouble")
        await rig.pass_time(32)
        await rig.settle()
        assert rig.queue.waiting == {}
        health = rig.intake.health()
        assert (health.status, health.results_waiting) == ("trouble", 1)
        rig.sink.fault = None
        await rig.pass_time(62)
        await rig.queue.wait_until(lambda: rig.intake.health().results_waiting == 0)
        assert [result["job"] for result in rig.results] == ["web"]
        assert rig.intake.health().status == "ok"


async def test_a_result_that_is_refused(tmp_path: Path) -> None:
    """A result that the outlet refuses for good keeps none of the others back, old or new, and is tried again."""
    async with running(tmp_path) as rig:
        rig.sink.refused = {"first"}
        rig.sink.fault = AWAY
        for name in ("first", "second"):
            await rig.hands.end(await rig.begin(name))
            await rig.queue.wait_until(lambda: rig.intake.health().status == "trouble")
            await rig.pass_time(32)
            await rig.settle()
        rig.sink.fault = None
        await rig.pass_time(62)
        await rig.hands.end(await rig.begin("third"))
        await rig.queue.wait_until(lambda: len(rig.results) == 2)
        await rig.settle()
        health = rig.intake.health()
        assert [result["job"] for result in rig.results] == ["second", "third"]
        assert [error.code for error in health.errors] == ["aws.InvalidMessageContents"]
        rig.sink.refused.clear()
        await rig.pass_time(62)
        await rig.queue.wait_until(lambda: rig.intake.health().status == "ok")
        assert [result["job"] for result in rig.results] == ["second", "third", "first"]


async def test_a_result_that_is_refused_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A result that the outlet has refused for too long is given up, with a line in the log and a count."""
    async with running(tmp_path) as rig:
        rig.sink.refused = {"web"}
        await rig.hands.end(await rig.begin("web"))
        await rig.queue.wait_until(lambda: rig.intake.health().status == "trouble")
        await rig.pass_time(32)
        await rig.settle()
        assert (rig.intake.health().results_waiting, rig.intake.results_given_up) == (1, 0)
        monkeypatch.setattr(outbox, "LONGEST_REFUSED_S", 0)
        await rig.pass_time(62)
        await rig.queue.wait_until(lambda: rig.intake.health().results_waiting == 0)
        assert (rig.intake.results_given_up, rig.intake.health().status, rig.results) == (1, "ok", [])


async def test_requests_of_a_busy_host(tmp_path: Path) -> None:
    """Results that follow each other closely share a request, and so do the deletions of their messages."""
    async with running(tmp_path, max_jobs=12, queue_jobs=12, gather_s=20) as rig:
        jobs = [await rig.begin(f"job-{number}") for number in range(12)]
        await rig.hands.end(jobs[0])
        await rig.queue.wait_until(lambda: bool(rig.results))
        await rig.hands.end(jobs[1])
        await rig.turn()
        assert [result["job"] for result in rig.results] == ["job-0"]
        for job in jobs[2:]:
            await rig.hands.end(job)
        # A full request waits for nothing.
        await rig.queue.wait_until(lambda: len(rig.results) >= 11)
        await rig.pass_time(21)
        await rig.settle()
        assert (len(rig.results), rig.queue.waiting) == (12, {})
        assert (rig.sink.requests, rig.queue.calls["delete"]) == (3, 3)


async def test_a_result_of_hostile_text(tmp_path: Path) -> None:
    """A result quotes little of a refused message, in ASCII."""
    async with running(tmp_path) as rig:
        rig.send("web", request={"kind": "é" * 10_000})
        await rig.queue.wait_until(lambda: bool(rig.results))
        await rig.settle()
        (document,) = rig.sink.documents
        assert document.isascii()
        assert len(document) < 2000
        assert (rig.results[0]["code"], "éé..." in rig.results[0]["error"]["message"]) == ("message.malformed", True)


def test_a_result_of_a_long_error() -> None:
    """An error that makes the result too large is cut."""
    message = HeldMessage(
        message_id="m1",
        name="web",
        queue=URL,
        handle="",
        body="",
        attempt=1,
        sent_at=0.0,
        boot="",
        ends_at=0,
        parks_at=0,
    )
    error = JobError("job.failed", "cannot read " + "é" * 90_000, hint="look")
    notice = result_of_refusal(message, error, host="a", label="\uffff")
    found = json.loads(notice.document)
    assert notice.document.isascii()
    assert len(notice.document) < 30_000
    assert (found["label"], found["error"]["hint"], found["error"]["message"][-4:]) == ("\uffff", "look", "é...")


async def test_no_outlet(tmp_path: Path) -> None:
    """Without `results` the message is deleted all the same, and the counts have the result."""
    async with running(tmp_path, results=False) as rig:
        await rig.hands.end(await rig.begin("web"))
        await rig.settle()
        assert (rig.queue.waiting, rig.results) == ({}, [])
        assert rig.intake.counts.results == {"done": 1}
        assert await rig.journal.deliveries.count_unsent() == 0


async def test_an_idle_host(tmp_path: Path) -> None:
    """An idle host asks less than 200 times an hour."""
    async with running(tmp_path) as rig:
        await rig.queue.wait_call("receive")
        before = rig.queue.calls.total()
        await rig.pass_time(3600)
        assert 150 < rig.queue.calls.total() - before < 200


async def test_stopping(tmp_path: Path) -> None:
    """After a stop what the last poll brings is given back, and interrupted jobs once that poll is over."""
    async with running(tmp_path) as rig:
        job = await rig.begin("web")
        await rig.queue.wait_call("receive", 2)
        rig.intake.stop()
        assert rig.intake.health().status == "stopping"
        await rig.jobs.drain(OnStop.INTERRUPT)
        assert await has_ended(job) is State.INTERRUPTED
        await rig.turn()
        assert rig.queue.calls["give_back"] == 0
        rig.send("late")
        await rig.running
        assert [each.visible_at <= now() for each in rig.queue.waiting.values()] == [True, True]
        assert [each.receives for each in rig.queue.waiting.values()] == [1, 1]
        assert (rig.queue.calls["receive"], rig.results) == (2, [])


async def test_a_hurried_stop(tmp_path: Path) -> None:
    """A second signal cuts the last poll off, and interrupts the jobs."""
    async with running(tmp_path) as rig:
        job = await rig.begin("web")
        rig.intake.stop()
        await rig.turn()
        assert not job.state.ended
        rig.hurry.set()
        await rig.running
        assert await has_ended(job) is State.INTERRUPTED
        assert rig.queue.waiting["m1"].visible_at <= now()


async def test_a_bounded_stop(tmp_path: Path) -> None:
    """A job that may finish is given back once `queue_drain_s` are over, and its result is not lost before."""
    async with running(tmp_path, queue_drain_s=400) as rig:
        slow, quick = await rig.begin("slow"), await rig.begin("quick")
        rig.intake.stop()
        await rig.hands.end(quick)
        await rig.queue.wait_until(lambda: bool(rig.results))
        # Real time passes, too.
        await rig.pass_time(300)
        assert not slow.state.ended
        assert [result["job"] for result in rig.results] == ["quick"]
        await rig.pass_time(101)
        assert await has_ended(slow) is State.INTERRUPTED
        await rig.running
        assert rig.queue.waiting["m1"].visible_at <= now()


async def test_a_killed_process_is_followed(tmp_path: Path) -> None:
    """The next process on the host goes on with the job while its lease can be confirmed."""
    async with running(tmp_path, kill=True) as rig:
        queue = rig.queue
        job = await rig.begin("web")
    async with running(tmp_path, queue) as rig:
        again = await rig.begun()
        assert again.id == job.id
        assert again.lease is not None
        assert again.lease.attempt == 1
        assert queue.waiting["m1"].receives == 1
        await rig.hands.end(again)
        await rig.settle()
        assert [result["attempt"] for result in rig.results] == [1]
        assert queue.waiting == {}


async def test_a_process_killed_long_ago(tmp_path: Path) -> None:
    """When the lease is over the next process waits until the message comes again, and resumes the job then."""
    async with running(tmp_path, kill=True) as rig:
        queue = rig.queue
        job = await rig.begin("web")
    put_forward(299)
    async with running(tmp_path, queue) as rig:
        await rig.turn()
        assert rig.hands.calls == []
        await rig.pass_time(3)
        again = await rig.begun()
        assert again.id == job.id
        assert again.lease is not None
        assert again.lease.attempt == 2
        await rig.hands.end(again)
        await rig.settle()
        assert [result["attempt"] for result in rig.results] == [2]


async def test_a_deletion_that_takes_long(tmp_path: Path) -> None:
    """A message that is being deleted is not extended any more, and its lease is not counted as lost."""
    async with running(tmp_path) as rig:
        job = await rig.begin("web")
        rig.queue.held["extend"] = beat = asyncio.Event()
        rig.queue.held["delete"] = deletion = asyncio.Event()
        await rig.pass_time(101)
        await rig.hands.end(job)
        await rig.queue.wait_call("delete")
        deletion.set()
        await rig.queue.wait_until(lambda: not rig.queue.waiting)
        beat.set()
        await rig.settle()
        await rig.pass_time(101)
        assert rig.queue.calls["extend"] == 1
        assert (rig.intake.leases_lost, rig.intake.failed_beats, rig.intake.health().status) == (0, 0, "ok")


async def test_a_dead_letter_waits_for_its_queue(tmp_path: Path) -> None:
    """A message of a killed process is not deleted before the next one knows the queue of dead letters."""
    async with running(tmp_path, kill=True) as rig:
        queue = rig.queue
        await rig.begin("web")
    policy = queue.held["policy"] = asyncio.Event()
    async with running(tmp_path, queue) as rig:
        job = await rig.begun()
        await rig.jobs.cancel(job.id)
        await queue.wait_until(lambda: bool(rig.results))
        await rig.turn()
        assert (list(queue.waiting), rig.dead.waiting) == (["m1"], {})
        policy.set()
        await rig.settle()
        assert queue.waiting == {}
        assert [each.attributes["job"] for each in rig.dead.waiting.values()] == ["web"]


async def test_a_dead_letter_of_a_queue_that_may_not_be_looked_at(tmp_path: Path) -> None:
    """While nobody permits a look at the redrive policy jobs are done, and no message that failed is deleted."""
    queue = MemoryQueue()
    queue.faults["policy"] = DeniedError("aws.AccessDenied", "cannot look for the dead letters: access is denied")
    async with running(tmp_path, queue) as rig:
        await rig.hands.end(await rig.begin("web"))
        await rig.settle()
        assert queue.waiting == {}
        queue.put("no message")
        await queue.wait_call("policy", 2)
        await rig.settle()
        assert (list(queue.waiting), rig.dead.waiting) == (["m2"], {})
        del queue.faults["policy"]
        await rig.pass_time(310)
        await queue.wait_until(lambda: not queue.waiting)
        await rig.settle()
        assert [each.body for each in rig.dead.waiting.values()] == ["no message"]
        assert [result["outcome"] for result in rig.results] == ["done", "refused"]


async def test_a_dead_letter_of_a_stopping_host(tmp_path: Path) -> None:
    """A host that stops before it knows the queue of dead letters leaves the message in its queue."""
    async with running(tmp_path, kill=True) as rig:
        queue = rig.queue
        await rig.begin("web")
    queue.held["policy"] = asyncio.Event()
    async with running(tmp_path, queue) as rig:
        job = await rig.begun()
        await rig.jobs.cancel(job.id)
        await queue.wait_until(lambda: bool(rig.results))
        await rig.end()
        assert (list(queue.waiting), rig.dead.waiting) == (["m1"], {})


async def test_a_dead_letter_that_is_late(tmp_path: Path) -> None:
    """A host that was suspended before it could send a dead letter sends none: another host may have done the job."""
    async with running(tmp_path) as rig:
        rig.sink.fault = AWAY
        job = await rig.begin("web")
        await rig.jobs.cancel(job.id)
        await rig.queue.wait_until(lambda: rig.intake.health().status == "trouble")
        rig.queue.waiting.clear()
        put_forward(301)
        await rig.settle()
        assert (rig.dead.calls["send"], rig.queue.calls["delete"]) == (0, 0)
        # Else the end waits for the result.
        rig.sink.fault = None
        await rig.pass_time(62)


async def test_killed_before_the_deletion(tmp_path: Path) -> None:
    """A process that died with a result in the journal is followed by one that sends it and deletes the message."""
    async with running(tmp_path, kill=True) as rig:
        queue = rig.queue
        queue.held["delete"] = asyncio.Event()
        rig.sink.fault = AWAY
        await rig.hands.end(await rig.begin("web"))
        await queue.wait_until(lambda: rig.intake.health().status == "trouble")
        await rig.pass_time(31)
        await queue.wait_call("delete")
    queue.held.clear()
    async with running(tmp_path, queue) as rig:
        await queue.wait_until(lambda: not queue.waiting)
        await rig.queue.wait_until(lambda: bool(rig.results))
        assert [(result["job"], result["outcome"]) for result in rig.results] == [("web", "done")]
        assert rig.hands.calls == []


async def test_every_text_is_dealt_with(tmp_path: Path) -> None:
    """Hostile bodies of any form are dead letters with a result each, and the host goes on."""
    bodies = [
        "",
        "\x00",
        "[" * 5000,
        json.dumps({"v": 1, "job": "../../etc", "kind": "bundle", "request": {}}),
        json.dumps({"v": 1, "job": "a", "kind": "bundle", "request": {"source": "/proc/self/environ"}}),
        "x" * 70_000,
        message("b", request={"source": "/volumes/../etc/shadow", "destinations": ["/bundles/a"]}),
        message("c", request={"kind": "verify", "manifest": "s3://b/x", "endpoint_url": "http://192.0.2.1"}),
    ]
    async with running(tmp_path) as rig:
        for body in bodies:
            rig.queue.put(body)
        job = await rig.begin("good")
        await rig.hands.end(job)
        await rig.queue.wait_until(lambda: len(rig.results) == len(bodies) + 1)
        await rig.settle()
        assert rig.queue.waiting == {}
        assert len(rig.dead.waiting) == len(bodies)
        assert [result["outcome"] for result in rig.results].count("done") == 1
