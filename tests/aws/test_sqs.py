"""A queue, at ministack and at moto, and the answers that neither of them gives."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from botocore.exceptions import ClientError

from amistream.aws.queue_address import parse_queue_url
from amistream.aws.session import Aws
from amistream.aws.sqs import Delivery, Sqs, open_sqs
from amistream.errors import RefusedError, StaleHandleError, StoreError, UnfitMessageError
from amistream.flow.retry import RetryPolicy
from amistream.settings import Settings
from support.queues import queue_at

if TYPE_CHECKING:
    from support.endpoints import Endpoint

QUICK = RetryPolicy(attempts=3, base_s=0.001, cap_s=0.001, stall_s=30)
AT_AWS = parse_queue_url("https://sqs.eu-west-1.amazonaws.com/123456789012/work")
SETTINGS = Settings(region="eu-west-1", upload_attempts=2, backoff_base_s=0.001)


@pytest.fixture(params=["ministack", "moto_server"])
def place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Endpoint:
    """Each of the two endpoints, with its credentials."""
    endpoint: Endpoint = request.getfixturevalue(request.param)
    for name, value in endpoint.environ().items():
        monkeypatch.setenv(name, value)
    return endpoint


@pytest_asyncio.fixture
async def queue(place: Endpoint) -> AsyncIterator[Sqs]:
    """A queue that gives up a message after its second receive."""
    with queue_at(place, receives=2) as url:
        async with Aws(SETTINGS) as aws:
            yield await open_sqs(aws, url, SETTINGS)


async def receive_all(queue: Sqs) -> list[Delivery]:
    found: list[Delivery] = []
    while some := await queue.receive(10, 0, 600):
        found += some
    return found


async def test_messages_come_and_go(queue: Sqs) -> None:
    """More messages than a batch are sent, counted, received once with their attributes, and deleted."""
    bodies = [json.dumps({"job": f"job-{number}", "label": "é\n"}) for number in range(23)]
    assert await queue.send(bodies, {"code": "x.y", "empty": ""}) == {}
    assert (await queue.counts()).waiting == 23
    found = await receive_all(queue)
    assert sorted(each.body for each in found) == sorted(bodies)
    assert {each.receives for each in found} == {1}
    assert {tuple(each.attributes.items()) for each in found} == {(("code", "x.y"),)}
    assert len({each.message_id for each in found}) == 23
    counts = await queue.counts()
    assert (counts.waiting, counts.in_flight, counts.total) == (0, 23, 23)
    assert await queue.extend([each.handle for each in found], 600) == {}
    assert await queue.delete([each.handle for each in found]) == {}
    assert (await queue.counts()).total == 0


async def test_a_message_that_is_given_back(queue: Sqs) -> None:
    """A message that is given back comes at once, as the same message with a second receive."""
    await queue.send(["work"])
    [first] = await queue.receive(1, 0, 600)
    assert await queue.receive(1, 0, 600) == []
    assert await queue.extend([first.handle], 0) == {}
    [second] = await queue.receive(1, 0, 600)
    assert (second.message_id, second.body, second.receives) == (first.message_id, "work", 2)
    assert second.sent_at == first.sent_at


async def test_a_poll_ends_with_the_first_message(queue: Sqs) -> None:
    """A long poll that waits gets the message that is sent meanwhile."""
    waiting = asyncio.create_task(queue.receive(10, 20, 600))
    await queue.counts()
    await queue.send(["work"])
    assert [each.body for each in await waiting] == ["work"]


async def test_dead_letters_come_back(queue: Sqs) -> None:
    """A message that was received too often is a dead letter, and is moved back with its attributes, once."""
    policy = await queue.redrive_policy()
    dead = policy.dead
    assert dead is not None
    assert (dead.url, policy.most_receives) == (f"{queue.url}-dead", 2)
    assert await queue.redrive() == 0
    await queue.send(["poison"], {"code": "x.y"})
    for _ in range(2):
        [delivery] = await queue.receive(1, 0, 600)
        await queue.extend([delivery.handle], 0)
    assert await queue.receive(1, 0, 600) == []
    assert ((await queue.counts()).total, (await dead.counts()).waiting) == (0, 1)
    assert await queue.redrive() == 1
    [again] = await queue.receive(1, 0, 600)
    assert (again.body, again.attributes) == ("poison", {"code": "x.y"})
    assert (await dead.counts()).total == 0


async def test_a_queue_without_dead_letters(place: Endpoint) -> None:
    """A queue that has none for its dead letters says how to make one."""
    with queue_at(place) as url:
        async with Aws(SETTINGS) as aws:
            queue = await open_sqs(aws, url, SETTINGS)
            assert await queue.dead_letter() is None
            with pytest.raises(RefusedError) as caught:
                await queue.redrive()
    assert caught.value.code == "queue.no_dead_letters"
    assert "RedrivePolicy" in caught.value.hint


async def test_a_queue_that_is_gone(place: Endpoint) -> None:
    """Every request to a queue that was deleted says so, and is not repeated."""
    with queue_at(place) as url:
        pass
    async with Aws(SETTINGS) as aws:
        queue = await open_sqs(aws, url, SETTINGS)
        for asked in (
            queue.receive(1, 0, 60),
            queue.extend(["handle"], 60),
            queue.delete(["handle"]),
            queue.send(["work"]),
            queue.counts(),
            queue.dead_letter(),
        ):
            with pytest.raises(StoreError) as caught:
                await asked
            assert (caught.value.code, caught.value.field) == ("aws.QueueDoesNotExist", "queue")
            assert not caught.value.transient


async def _stale(queue: Sqs) -> tuple[str, str]:
    """The handles of a message that was received twice: the older one, and the one that holds it."""
    await queue.send(["work"])
    [first] = await queue.receive(1, 0, 600)
    await queue.extend([first.handle], 0)
    [second] = await queue.receive(1, 0, 600)
    return first.handle, second.handle


@pytest.mark.parametrize("place", ["ministack"], indirect=True)
async def test_a_stale_handle_is_refused(queue: Sqs) -> None:
    """Of a batch, the handle of an earlier receive is named with its error, and the others are done."""
    old, new = await _stale(queue)
    failed = await queue.extend([old, new], 600)
    assert [*failed] == [old]
    assert isinstance(failed[old], StaleHandleError)
    failed = await queue.delete([new, old])
    assert [*failed] == [old]
    assert (await queue.counts()).total == 0


@pytest.mark.parametrize("place", ["moto_server"], indirect=True)
async def test_a_stale_handle_may_pass(queue: Sqs) -> None:
    """An answer without an error does not prove that the message is still held: moto takes a stale handle."""
    old, new = await _stale(queue)
    assert await queue.extend([old], 600) == {}
    assert await queue.delete([new]) == {}


class Scripted:
    """A client that answers a request by the next of its replies: a reply, an error, or a function of the request."""

    def __init__(self, *replies: Any) -> None:
        self.replies = list(replies)
        self.asked: list[dict[str, Any]] = []
        self.meta = SimpleNamespace(region_name="eu-west-1")

    def __getattr__(self, operation: str) -> Callable[..., Any]:
        async def answer(**arguments: Any) -> Any:
            self.asked.append({"operation": operation, **arguments})
            reply = self.replies.pop(0)
            if isinstance(reply, Exception):
                raise reply
            return reply(arguments) if callable(reply) else reply

        return answer


def all_well(arguments: dict[str, Any]) -> dict[str, Any]:
    return {"Successful": [{"Id": entry["Id"]} for entry in arguments["Entries"]], "Failed": []}


def answering(**codes: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Refuse the messages with these bodies; a code that begins with Internal is AWS's own fault."""

    def answer(arguments: dict[str, Any]) -> dict[str, Any]:
        reply: dict[str, Any] = {"Successful": [], "Failed": []}
        for entry in arguments["Entries"]:
            if code := codes.get(entry["MessageBody"]):
                sender = not code.startswith("Internal")
                reply["Failed"].append({"Id": entry["Id"], "Code": code, "Message": "no", "SenderFault": sender})
            else:
                reply["Successful"].append({"Id": entry["Id"]})
        return reply

    return answer


def bodies_of(asked: dict[str, Any]) -> list[str]:
    return [entry["MessageBody"] for entry in asked["Entries"]]


async def test_only_what_failed_for_a_moment_is_repeated() -> None:
    """Of a batch, what SQS failed to take is sent again, what it refuses is named, and the rest is left alone."""

    def first(arguments: dict[str, Any]) -> dict[str, Any]:
        reply = answering(b="InternalError", c="InvalidMessageContents")(arguments)
        return {**reply, "ResponseMetadata": {"RequestId": "4442587F", "HTTPStatusCode": 200}}

    client = Scripted(first, all_well)
    failed = await Sqs(client, AT_AWS, QUICK).send(["a", "b", "c"])
    assert [bodies_of(each) for each in client.asked] == [["a", "b", "c"], ["b"]]
    named = {index: (error.code, error.request_id) for index, error in failed.items()}
    assert named == {2: ("aws.InvalidMessageContents", "4442587F")}


async def test_what_fails_again_and_again_is_named() -> None:
    """A message that SQS does not take in any try is named beside those that it refused; the others are sent."""
    client = Scripted(*[answering(b="InternalError", c="InvalidMessageContents")] * 3)
    failed = await Sqs(client, AT_AWS, QUICK).send(["a", "b", "c"])
    assert len(client.asked) == QUICK.attempts
    assert {index: error.code for index, error in failed.items()} == {
        1: "aws.InternalError",
        2: "aws.InvalidMessageContents",
    }


async def test_an_answer_that_leaves_a_message_out() -> None:
    """A message of which the answer says nothing is sent again."""
    client = Scripted({"Successful": [{"Id": "0"}]}, all_well)
    assert await Sqs(client, AT_AWS, QUICK).send(["a", "b"]) == {}
    assert [bodies_of(each) for each in client.asked] == [["a", "b"], ["a", "b"]]


async def test_a_batch_without_any_answer() -> None:
    """A queue that never answers is an error of all, and not of single messages."""
    lost = ClientError({"Error": {"Code": "InternalError", "Message": "no"}}, "SendMessageBatch")
    client = Scripted(*[lost] * QUICK.attempts)
    with pytest.raises(StoreError) as caught:
        await Sqs(client, AT_AWS, QUICK).send(["a"])
    assert (caught.value.code, caught.value.transient) == ("aws.InternalError", False)


@pytest.mark.parametrize("place", ["ministack"], indirect=True)
async def test_a_batch_that_is_refused_as_a_whole(queue: Sqs) -> None:
    """A message that the queue cannot take, and for which it refuses the whole batch, is named; the others are sent."""
    failed = await queue.send(["a", "\0", "b", "c"])
    assert {index: type(error) for index, error in failed.items()} == {1: UnfitMessageError}
    assert sorted(each.body for each in await receive_all(queue)) == ["a", "b", "c"]


async def test_a_batch_is_halved() -> None:
    """Messages that are too long only together are sent in more requests."""

    def answer(arguments: dict[str, Any]) -> dict[str, Any]:
        if len("".join(bodies_of(arguments))) > 100:
            raise ClientError({"Error": {"Code": "BatchRequestTooLong", "Message": "no"}}, "SendMessageBatch")
        return all_well(arguments)

    client = Scripted(*[answer] * 9)
    assert await Sqs(client, AT_AWS, QUICK).send(["a" * 40] * 5) == {}
    assert [len(bodies_of(each)) for each in client.asked] == [5, 2, 3, 1, 2]


async def test_what_is_sent_is_not_sent_again_when_the_rest_is_refused() -> None:
    """A batch of which a part was taken before the rest is refused as a whole: only the rest is asked for again."""

    def refuse(arguments: dict[str, Any]) -> dict[str, Any]:
        if "d" in bodies_of(arguments):
            raise ClientError({"Error": {"Code": "InvalidMessageContents", "Message": "no"}}, "SendMessageBatch")
        return all_well(arguments)

    client = Scripted(answering(b="InternalError", c="InvalidMessageContents", d="InternalError"), *[refuse] * 3)
    failed = await Sqs(client, AT_AWS, QUICK).send(["a", "b", "c", "d"])
    assert [bodies_of(each) for each in client.asked] == [["a", "b", "c", "d"], ["b", "d"], ["b"], ["d"]]
    assert {index: error.code for index, error in failed.items()} == dict.fromkeys((2, 3), "aws.InvalidMessageContents")


async def test_batches_keep_to_the_limits() -> None:
    """A request has at most ten messages and at most one MiB."""
    client = Scripted(*[all_well] * 4)
    large = "x" * (600 * 1024)
    assert await Sqs(client, AT_AWS, QUICK).send([large, large, *"abcdefghijk"]) == {}
    assert [len(bodies_of(each)) for each in client.asked] == [1, 10, 2]
    assert sorted(entry["Id"] for each in client.asked for entry in each["Entries"]) == sorted(map(str, range(13)))


@pytest.mark.parametrize(
    "message",
    [
        {},
        {"MessageId": "m", "ReceiptHandle": "h", "Body": "b"},
        {"MessageId": "m", "ReceiptHandle": "h", "Attributes": {"ApproximateReceiveCount": "1", "SentTimestamp": "1"}},
        {"MessageId": "m", "ReceiptHandle": "h", "Body": "b", "Attributes": {"ApproximateReceiveCount": "x"}},
    ],
)
async def test_a_message_without_its_content(message: dict[str, Any]) -> None:
    """A message that lacks what every message has is an answer that cannot be read."""
    with pytest.raises(StoreError) as caught:
        await Sqs(Scripted({"Messages": [message]}), AT_AWS, QUICK).receive(1, 0, 60)
    assert (caught.value.code, caught.value.transient) == ("aws.unreadable", True)


async def test_a_poll_is_shorter_than_the_wait_for_an_answer() -> None:
    """A long poll does not last until the request counts as lost, and asks for ten messages at the most."""
    client = Scripted({}, {})
    assert await Sqs(client, AT_AWS, QUICK).receive(64, 20, 60) == []
    hasty = RetryPolicy(attempts=1, base_s=1, cap_s=1, stall_s=9)
    assert await Sqs(client, AT_AWS, hasty).receive(1, 20, 60) == []
    assert [(each["MaxNumberOfMessages"], each["WaitTimeSeconds"]) for each in client.asked] == [(10, 20), (1, 6)]


def _of(name: str, value: str) -> dict[str, Any]:
    return {"Attributes": {name: value}}


POLICY = _of(
    "RedrivePolicy",
    json.dumps({"deadLetterTargetArn": "arn:aws:sqs:eu-west-1:1:work-dead", "maxReceiveCount": 5}),
)
COUNTS = {
    "Attributes": {
        "ApproximateNumberOfMessages": "7",
        "ApproximateNumberOfMessagesNotVisible": "0",
        "ApproximateNumberOfMessagesDelayed": "0",
    }
}


async def test_aws_moves_dead_letters_itself() -> None:
    """On AWS one task moves all dead letters to the queue, also those that were sent there."""
    arns = _of("QueueArn", "arn:dead"), _of("QueueArn", "arn:work")
    client = Scripted(POLICY, COUNTS, *arns, {"TaskHandle": "task"})
    assert await Sqs(client, AT_AWS, QUICK).redrive() == 7
    assert client.asked[1]["QueueUrl"] == "https://sqs.eu-west-1.amazonaws.com/123456789012/work-dead"
    assert client.asked[-1] == {
        "operation": "start_message_move_task",
        "SourceArn": "arn:dead",
        "DestinationArn": "arn:work",
    }


async def test_aws_refuses_to_move_dead_letters() -> None:
    """On AWS a refusal is shown, and nothing is moved by hand."""
    refusal = ClientError({"Error": {"Code": "AccessDenied", "Message": "no"}}, "StartMessageMoveTask")
    client = Scripted(POLICY, COUNTS, _of("QueueArn", "arn:dead"), _of("QueueArn", "arn:work"), refusal)
    with pytest.raises(StoreError) as caught:
        await Sqs(client, AT_AWS, QUICK).redrive()
    assert caught.value.code == "aws.AccessDenied"
    assert "sqs:StartMessageMoveTask" in caught.value.hint


@pytest.mark.parametrize("policy", ["", "{}", "[]", "no json", '{"deadLetterTargetArn": "arn:aws:sqs:x:1:d"}'])
async def test_a_policy_that_names_no_queue(policy: str) -> None:
    """A redrive policy that names no queue is like none."""
    assert await Sqs(Scripted(_of("RedrivePolicy", policy)), AT_AWS, QUICK).dead_letter() is None
