"""Notices to a bus, a topic and a queue."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from amistream.aws.notices import BusOutlet, open_outlet
from amistream.aws.session import Aws
from amistream.aws.sqs import open_sqs
from amistream.errors import UsageError
from amistream.flow.retry import RetryPolicy
from amistream.jobs.deliveries import Notice
from amistream.settings import Settings
from support.queues import queue_at

if TYPE_CHECKING:
    from support.endpoints import Endpoint

DOCUMENT = json.dumps({"job": "web-1", "outcome": "done", "label": "é"})
QUICK = RetryPolicy(attempts=3, base_s=0.001, cap_s=0.001, stall_s=30)


@pytest.fixture
def place(ministack: Endpoint, monkeypatch: pytest.MonkeyPatch) -> Endpoint:
    """Ministack, with its credentials."""
    for name, value in ministack.environ().items():
        monkeypatch.setenv(name, value)
    return ministack


@pytest.fixture
def receiver(place: Endpoint) -> Iterator[str]:
    """The URL of a queue that receives the notices."""
    with queue_at(place) as url:
        yield url


def arn_of(place: Endpoint, url: str) -> str:
    with place.blocking_client("sqs") as sqs:
        found = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])
        return str(found["Attributes"]["QueueArn"])


async def send(place: Endpoint, address: str, receiver: str) -> tuple[str, dict[str, str]]:
    """Send a notice to the address; returns the body and the attributes that the receiver has got."""
    settings = Settings(region=place.region, endpoint_url=place.url)
    async with Aws(settings) as aws:
        outlet = await open_outlet(address, aws, settings)
        assert await outlet.send([Notice(notice_id="web-1.2", outcome="done", document=DOCUMENT)]) == {}
        [delivery] = await (await open_sqs(aws, receiver, settings)).receive(1, 1, 60)
    return delivery.body, dict(delivery.attributes)


async def test_to_a_queue(place: Endpoint, receiver: str) -> None:
    """A queue gets the document as it is, with its id and outcome as attributes."""
    assert await send(place, f"sqs:{receiver}", receiver) == (DOCUMENT, {"id": "web-1.2", "outcome": "done"})


async def test_to_a_topic(place: Endpoint, receiver: str) -> None:
    """The subscribers of a topic get the document, and can filter by its outcome."""
    with place.blocking_client("sns") as sns:
        topic = sns.create_topic(Name="done")["TopicArn"]
        filtered = {"FilterPolicy": json.dumps({"outcome": ["done"]}), "RawMessageDelivery": "true"}
        sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=arn_of(place, receiver), Attributes=filtered)
        try:
            body, _ = await send(place, f"sns:{topic}", receiver)
        finally:
            sns.delete_topic(TopicArn=topic)
    assert body == DOCUMENT


async def test_to_a_bus(place: Endpoint, receiver: str) -> None:
    """A rule of a bus finds the event by its source and detail type, and the document is its detail."""
    with place.blocking_client("events") as events:
        pattern = {"source": ["amistream"], "detail-type": ["amistream job done"]}
        events.put_rule(Name="ends", EventPattern=json.dumps(pattern))
        events.put_targets(Rule="ends", Targets=[{"Id": "queue", "Arn": arn_of(place, receiver)}])
        try:
            body, _ = await send(place, "events:default", receiver)
        finally:
            events.remove_targets(Rule="ends", Ids=["queue"])
            events.delete_rule(Name="ends")
    assert json.loads(body)["detail"] == json.loads(DOCUMENT)


@pytest.mark.parametrize(
    "address",
    ["", "events", "events:", "sns:", "sns:topic", "sns:arn:aws:sns:eu-west-1:1:t.fifo", "sqs:", "https://x/y", "s3:b"],
)
async def test_an_address_that_is_none(address: str) -> None:
    """Text that names no outlet is refused with the three forms."""
    async with Aws(Settings()) as aws:
        with pytest.raises(UsageError) as caught:
            await open_outlet(address, aws, Settings())
    assert (caught.value.code, caught.value.field) == ("results.address", "results")


async def test_a_queue_that_is_none() -> None:
    """A queue of results that is no queue's URL blames the setting."""
    async with Aws(Settings()) as aws:
        with pytest.raises(UsageError) as caught:
            await open_outlet("sqs:work", aws, Settings())
    assert (caught.value.code, caught.value.field) == ("queue.url", "results")


class Bus:
    """A client whose answers to PutEvents are given."""

    def __init__(self, *entries: dict[str, str]) -> None:
        self.entries = list(entries)
        self.ids: list[str] = []

    async def put_events(self, *, Entries: list[dict[str, Any]]) -> Any:  # noqa: N803 - the SDK's name
        self.ids.append(json.loads(Entries[0]["Detail"])["id"])
        return {"Entries": [self.entries.pop(0)]}


@pytest.mark.parametrize("first", [{"ErrorCode": "ThrottlingException", "ErrorMessage": "slow"}, {}])
async def test_an_event_that_the_bus_did_not_take(first: dict[str, str]) -> None:
    """An event that the bus did not take for a moment is put again, although the request went well."""
    bus = Bus(first, {"EventId": "e"})
    assert await BusOutlet(bus, "default", QUICK).send(notices("n")) == {}
    assert bus.ids == ["n", "n"]


async def test_events_that_the_bus_refuses() -> None:
    """An event that the bus refuses is put once, and keeps none of the others back."""
    bus = Bus({"ErrorCode": "NotAuthorizedForSourceException", "ErrorMessage": "no"}, {"EventId": "e"})
    failed = await BusOutlet(bus, "default", QUICK).send(notices("a", "b"))
    assert {name: error.code for name, error in failed.items()} == {"a": "aws.NotAuthorizedForSourceException"}
    assert bus.ids == ["a", "b"]


async def test_several_to_a_queue(place: Endpoint, receiver: str) -> None:
    """Notices share a request to a queue; each has its own attributes. A queue that is gone takes none of them."""
    settings = Settings(region=place.region, endpoint_url=place.url)
    async with Aws(settings) as aws:
        outlet = await open_outlet(f"sqs:{receiver}", aws, settings)
        assert await outlet.send(notices("a", "b")) == {}
        queue = await open_sqs(aws, receiver, settings)
        found = {each.body: each.attributes["id"] for each in await queue.receive(10, 1, 60)}
        assert found == {'{"id": "a"}': "a", '{"id": "b"}': "b"}
        gone = await open_outlet(f"sqs:{receiver}-gone", aws, settings)
        failed = await gone.send(notices("a", "b"))
    assert {name: error.code for name, error in failed.items()} == dict.fromkeys("ab", "aws.QueueDoesNotExist")


def notices(*names: str) -> list[Notice]:
    return [Notice(notice_id=each, outcome="done", document=json.dumps({"id": each})) for each in names]
