"""`amistream fleet` against real queues: jobs are sent, counted, shown, buried and sent again."""

from __future__ import annotations

import io
import json
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from amistream.events import State
from bundles.made import older_bundle
from cli.fleet.documents import result
from cli.running import Cli, Spawn, ended, lines_until
from support.queues import queue_at

if TYPE_CHECKING:
    from support.endpoints import Endpoint
    from support.keys import KeyRing

LINE = {"job": "web-1", "kind": "verify", "request": {"manifest": "s3://b/web/image.manifest.xml"}}


@dataclass(frozen=True)
class Queues:
    """The URLs of a queue of jobs, its queue of dead letters and a queue of results, at an endpoint."""

    endpoint: Endpoint
    jobs: str
    results: str

    @property
    def dead(self) -> str:
        return f"{self.jobs}-dead"

    def put(self, url: str, *bodies: str, **attributes: str) -> None:
        given = {name: {"DataType": "String", "StringValue": value} for name, value in attributes.items()}
        with self.endpoint.blocking_client("sqs") as sqs:
            for body in bodies:
                sqs.send_message(QueueUrl=url, MessageBody=body, MessageAttributes=given)

    def bodies(self, url: str) -> list[str]:
        """The messages that can be received there now; they stay there."""
        with self.endpoint.blocking_client("sqs") as sqs:
            found: list[dict[str, Any]] = []
            while some := sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages"):
                found += some
            for each in found:
                handle = each["ReceiptHandle"]
                sqs.change_message_visibility(QueueUrl=url, ReceiptHandle=handle, VisibilityTimeout=0)
        return sorted(each["Body"] for each in found)


@pytest.fixture
def bundle(tmp_path: Path, key_ring: KeyRing) -> Path:
    """A bundle in a directory, which `bucket` gets."""
    return older_bundle(tmp_path / "old", key_ring, [3000, 100])


@pytest.fixture
def queues(cloud: Endpoint, monkeypatch: pytest.MonkeyPatch) -> Iterator[Queues]:
    """Queues of a test's own, which the variables name."""
    with ExitStack() as stack:
        made = Queues(cloud, stack.enter_context(queue_at(cloud, receives=5)), stack.enter_context(queue_at(cloud)))
        monkeypatch.setenv("AMISTREAM_QUEUE_URL", made.jobs)
        monkeypatch.setenv("AMISTREAM_RESULTS", f"sqs:{made.results}")
        yield made


async def test_lines_are_sent(queues: Queues, cli: Cli, tmp_path: Path) -> None:
    """Every line of a file becomes a message, with the label of the option."""
    file = tmp_path / "jobs.jsonl"
    file.write_text("\n".join(json.dumps({**LINE, "job": f"web-{number}"}) for number in range(23)))
    outcome = await cli("fleet", "submit", str(file), "--label", "nightly", "--json")
    assert (outcome.status, outcome.stderr) == (0, "")
    told = json.loads(outcome.stdout)
    assert (told["queue"], told["sent"], len(told["jobs"])) == (queues.jobs, 23, 23)
    sent = [json.loads(body) for body in queues.bodies(queues.jobs)]
    assert {each["job"] for each in sent} == {*told["jobs"]}
    assert {each["label"] for each in sent} == {"nightly"}


async def test_lines_of_the_standard_input(queues: Queues, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dry run sends nothing, and prints lines that can be sent."""
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(LINE)))
    outcome = await cli("fleet", "submit", "-", "--dry-run")
    assert (outcome.status, outcome.stderr) == (0, "1 message, nothing was sent\n")
    assert queues.bodies(queues.jobs) == []
    monkeypatch.setattr(sys, "stdin", io.StringIO(outcome.stdout))
    outcome = await cli("fleet", "submit", "-")
    assert (outcome.status, outcome.stdout) == (0, f"sent 1 message to {queues.jobs}\n")
    assert [json.loads(body)["job"] for body in queues.bodies(queues.jobs)] == ["web-1"]


async def test_a_bad_line_keeps_all_back(queues: Queues, cli: Cli, tmp_path: Path) -> None:
    """A bad last line is named before the first is sent."""
    file = tmp_path / "jobs.jsonl"
    file.write_text(f"{json.dumps(LINE)}\n{{}}\n")
    outcome = await cli("fleet", "submit", str(file))
    assert (outcome.status, f"{file}, line 2: cannot read the message" in outcome.stderr) == (2, True)
    assert queues.bodies(queues.jobs) == []


async def test_a_job_for_each_bundle(queues: Queues, cli: Cli, bucket: str) -> None:
    """The bundles of a bucket are found; one job verifies each, with further fields."""
    words = ("--every", f"s3://{bucket}", "--kind", "verify", "--request", '{"deep": false}', "--name", "v")
    outcome = await cli("fleet", "submit", *words, "--endpoint-url", queues.endpoint.url, "--json")
    assert outcome.status == 0, outcome.stderr
    [job] = json.loads(outcome.stdout)["jobs"]
    [sent] = [json.loads(body) for body in queues.bodies(queues.jobs)]
    assert job == sent["job"] == f"v/{sent['request']['manifest'].removeprefix('s3://')}"
    assert sent["request"]["manifest"].startswith(f"s3://{bucket}/")
    assert (sent["kind"], {*sent["request"]}) == ("verify", {"manifest", "deep"})


async def test_no_bundle_there(queues: Queues, cli: Cli, bucket: str) -> None:
    """A folder without bundles is noted, and nothing is sent."""
    words = ("--every", f"s3://{bucket}/none", "--kind", "verify", "--endpoint-url", queues.endpoint.url)
    outcome = await cli("fleet", "submit", *words)
    assert (outcome.status, "there is no bundle to verify" in outcome.stderr) == (0, True)
    assert queues.bodies(queues.jobs) == []


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), "give either FILE"),
        (("a", "--every", "s3://b", "--kind", "verify"), "give either FILE"),
        (("a", "--kind", "verify"), "--kind needs --every"),
        (("--every", "s3://b"), "--every needs --kind, one of convert, verify, migrate"),
        (("--every", "s3://b", "--kind", "bundle"), "--every needs --kind"),
        (("--every", "s3://b", "--kind", "migrate"), "--to, the place of the copies"),
        (("--every", "s3://b", "--kind", "verify", "--to", "s3://c"), "--to, the place of the copies"),
        (("--every", "s3://b", "--kind", "verify", "--request", "[]"), "--request is no JSON object"),
        (("--every", "s3://bundles", "--kind", "verify", "--request", '{"depp": 1}'), "there is no field 'depp'"),
        (("--every", "b", "--kind", "verify"), "'b' is no bucket"),
        (("no-such-file",), "cannot use no-such-file"),
    ],
)
async def test_options_that_do_not_fit(words: tuple[str, ...], told: str, cli: Cli) -> None:
    """Options that exclude or need each other are refused before anything is asked."""
    outcome = await cli("fleet", "submit", *words, "--queue", "https://sqs.eu-west-1.amazonaws.com/1/work")
    assert outcome.status in {2, 3}
    assert told in outcome.stderr


@pytest.mark.parametrize("command", ["submit", "status", "dead", "redrive"])
async def test_no_queue(command: str, cli: Cli, tmp_path: Path) -> None:
    """Without a queue the three ways to name one are told."""
    file = tmp_path / "jobs.jsonl"
    file.write_text(json.dumps(LINE))
    outcome = await cli("fleet", command, *([str(file)] if command == "submit" else []))
    assert (outcome.status, "AMISTREAM_QUEUE_URL" in outcome.stderr) == (2, True)


async def test_the_state_of_the_fleet(queues: Queues, cli: Cli) -> None:
    """The state counts messages, results of jobs and dead letters, and leaves all of them where they are."""
    queues.put(queues.jobs, *(json.dumps({**LINE, "job": str(number)}) for number in range(3)))
    done = [result(f"a-{number}", minute=number, host="h/1").model_dump_json() for number in range(12)]
    failed = result("b", State.FAILED, host="h/2").model_dump_json()
    queues.put(queues.results, *done, failed)
    queues.put(queues.dead, json.dumps(LINE), code="source.missing")
    outcome = await cli("fleet", "status", "--json")
    assert outcome.status == 0, outcome.stderr
    status = json.loads(outcome.stdout)
    assert (status["waiting"], status["running"], status["dead"]) == (3, 0, 1)
    assert (status["results"]["done"], status["results"]["failed"]) == (12, 1)
    assert [(each["host"], each["done"]) for each in status["results"]["hosts"]] == [("h/1", 12), ("h/2", 0)]
    assert len(queues.bodies(queues.results)) == 13
    assert len(queues.bodies(queues.jobs)) == 3


async def test_a_watch_ends_with_the_last_job(queues: Queues, cli: Cli) -> None:
    """A watch of a queue in which no job is left shows a line, and ends."""
    queues.put(queues.results, result("a").model_dump_json())
    outcome = await cli("fleet", "status", "--watch")
    assert (outcome.status, outcome.stdout) == (0, "0 waiting, 0 running, 1 done, 0 failed\n")


async def test_results_stay(queues: Queues, cli: Cli) -> None:
    """Results are shown, those of failed jobs alone with another exit status, and stay in the queue."""
    bodies = [result("a").model_dump_json(), result("b", State.FAILED, minute=1).model_dump_json()]
    queues.put(queues.results, *bodies, "no result")
    outcome = await cli("fleet", "results")
    assert (outcome.status, "2 results: 1 done, 1 failed" in outcome.stdout) == (0, True)
    assert "1 message there are no results" in outcome.stderr
    outcome = await cli("fleet", "results", "--failed", "--json")
    assert (outcome.status, [json.loads(each)["job"] for each in outcome.stdout.splitlines()]) == (4, ["b"])
    assert queues.bodies(queues.results) == sorted([*bodies, "no result"])


async def test_results_are_taken(queues: Queues, cli: Cli) -> None:
    """Results that were shown are deleted on request, and those that were not shown stay."""
    bodies = [result("a").model_dump_json(), result("b", State.FAILED).model_dump_json()]
    queues.put(queues.results, *bodies)
    outcome = await cli("fleet", "results", "--failed", "--take")
    assert outcome.status == 4
    assert queues.bodies(queues.results) == [bodies[0]]


async def test_results_are_followed(queues: Queues, spawn: Spawn) -> None:
    """New results are shown as they come, until Ctrl-C; then all of them can be read again."""
    first, second = (result(name).model_dump_json() for name in ("a", "b"))
    queues.put(queues.results, first)
    running = await spawn("fleet", "results", "--follow", "--json")
    assert json.loads((await lines_until(running.stdout, "a#0"))[-1])["job"] == "a"
    queues.put(queues.results, second)
    assert json.loads((await lines_until(running.stdout, "b#0"))[-1])["job"] == "b"
    running.send_signal(signal.SIGINT)
    assert (await ended(running)).status == 130
    assert queues.bodies(queues.results) == sorted([first, second])


async def test_results_elsewhere(queues: Queues, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Results that go to a bus cannot be read, and the way to a queue is told; the state is shown without them."""
    monkeypatch.setenv("AMISTREAM_RESULTS", "events:default")
    outcome = await cli("fleet", "results")
    assert (outcome.status, "--results sqs:URL" in outcome.stderr) == (2, True)
    monkeypatch.delenv("AMISTREAM_RESULTS")
    outcome = await cli("fleet", "status", "--queue", queues.jobs)
    assert (outcome.status, "the results are not in a queue" in outcome.stdout) == (0, True)


async def test_dead_letters(queues: Queues, cli: Cli) -> None:
    """Dead letters are shown with their codes, and sent again, or dropped."""
    queues.put(queues.dead, json.dumps(LINE), code="source.missing", host="h/1")
    queues.put(queues.dead, "no message")
    outcome = await cli("fleet", "dead")
    assert outcome.status == 0, outcome.stderr
    for words in ("source.missing", "web-1", "no message", "2 dead letters"):
        assert words in outcome.stdout
    outcome = await cli("fleet", "redrive", "--json")
    assert (outcome.status, json.loads(outcome.stdout)["moved"]) == (0, 2)
    assert queues.bodies(queues.jobs) == sorted([json.dumps(LINE), "no message"])
    assert queues.bodies(queues.dead) == []


async def test_dead_letters_are_dropped(queues: Queues, cli: Cli) -> None:
    """Dead letters are deleted only after a yes."""
    queues.put(queues.dead, json.dumps(LINE), code="source.missing")
    outcome = await cli("fleet", "dead", "--drop")
    assert (outcome.status, "give --yes" in outcome.stderr) == (3, True)
    assert len(queues.bodies(queues.dead)) == 1
    outcome = await cli("fleet", "dead", "--drop", "--yes", "--json")
    assert (outcome.status, outcome.stderr) == (0, "deleted 1 dead letter\n")
    [letter] = map(json.loads, outcome.stdout.splitlines())
    assert (letter["message"], letter["attributes"]) == (LINE, {"code": "source.missing"})
    assert queues.bodies(queues.dead) == []


async def test_a_queue_that_keeps_no_dead_letters(queues: Queues, cli: Cli) -> None:
    """A queue without a queue of dead letters says how to make one."""
    for command in ("dead", "redrive"):
        outcome = await cli("fleet", command, "--queue", queues.results)
        assert (outcome.status, "RedrivePolicy" in outcome.stderr) == (3, True)
