"""One queue of Amazon SQS: receives, extends, deletes, sends and counts messages, and moves dead letters back.

Messages are text here. Errors are translated. A request that failed for a moment is repeated by `flow.retry`, and in a
batch only those of its messages that failed so. A batch that is refused as a whole for its content is halved, until
only the messages that cannot be taken are left. `receive` alone is one request, because its caller asks again anyway.
SQS delivers at least once: a repeated `send` may send twice, and a message that was received may come again.

A receipt handle belongs to one receive. When its time has run out, AWS may still answer that a message was deleted, and
compatible endpoints that it was extended: only an extension in time proves that a message is still held.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeVar

from botocore.exceptions import ClientError

from amistream.aws.queue_address import QueueAddress, parse_queue_url
from amistream.aws.regions import on_aws
from amistream.aws.session import Aws
from amistream.aws.translate import IncompleteReplyError, asking, translate, wanted
from amistream.errors import RefusedError, StoreError, UnfitMessageError
from amistream.flow.retry import RetryPolicy, retry_policy, with_retries
from amistream.settings import Settings
from amistream.values import MIB

T = TypeVar("T")

BATCH = 10
"""Messages of a request. AWS limit."""
BATCH_BYTES = MIB
"""Bytes of the messages of a request. AWS limit."""
LONGEST_POLL_S = 20
"""AWS limit."""
_MOVING_S = 60
"""Seconds in which a dead letter that was received is moved."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message that was received. `receives` counts its receives, this one included."""

    message_id: str
    handle: str = field(repr=False)
    body: str
    receives: int
    sent_at: datetime
    attributes: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class QueueCounts:
    """Approximate numbers of messages: waiting, received and held, and not to be received yet."""

    waiting: int
    in_flight: int
    delayed: int

    @property
    def total(self) -> int:
        return self.waiting + self.in_flight + self.delayed


async def open_sqs(aws: Aws, url: str, settings: Settings, *, named: str = "queue") -> Sqs:
    """The queue of a URL, for as long as `aws` is open. Nothing is asked yet.

    Raises `UsageError` for a URL that is none, which `named` blames, and `RefusedError` or `StoreError`.
    """
    address = parse_queue_url(url, field=named)
    region = address.region or await aws.default_region()
    return Sqs(await aws.client("sqs", region, address.endpoint_url), address, retry_policy(settings))


class Sqs:
    """A queue. Every method raises `StoreError` when the queue as a whole refuses or does not answer."""

    def __init__(self, client: Any, address: QueueAddress, retry: RetryPolicy) -> None:
        self._client = client
        self._address = address
        self._retry = retry

    @property
    def url(self) -> str:
        return self._address.url

    @property
    def region(self) -> str:
        return str(self._client.meta.region_name)

    async def receive(self, most: int, wait_s: int, visibility_s: int) -> list[Delivery]:
        """Receive up to `most` messages (ten at once at the most) and hold them for `visibility_s` seconds.

        Waits up to `wait_s` seconds for the first, but less than the time without an answer after which the request
        would be given up. Messages of a request that is cancelled may stay held for `visibility_s`.
        """
        wait_s = min(wait_s, LONGEST_POLL_S, int(self._retry.stall_s * 2 / 3))
        async with asking(f"receive from {self._name}", wait_s + self._retry.stall_s):
            reply = await self._client.receive_message(
                QueueUrl=self.url,
                MaxNumberOfMessages=min(most, BATCH),
                WaitTimeSeconds=wait_s,
                VisibilityTimeout=visibility_s,
                MessageSystemAttributeNames=["ApproximateReceiveCount", "SentTimestamp"],
                MessageAttributeNames=["All"],
            )
            return [_delivery(each) for each in reply.get("Messages", ())]

    async def extend(self, handles: Sequence[str], seconds: int) -> dict[str, StoreError]:
        """Hold the messages for `seconds` from now; 0 gives them back. Returns the handles that failed, with why."""

        async def ask(entries: list[dict[str, Any]]) -> Any:
            return await self._client.change_message_visibility_batch(QueueUrl=self.url, Entries=entries)

        forms = [{"ReceiptHandle": handle, "VisibilityTimeout": seconds} for handle in handles]
        what = f"hold messages of {self._name}" if seconds else f"give messages back to {self._name}"
        failed = await self._in_batches(what, "ChangeMessageVisibilityBatch", forms, ask)
        return {handles[index]: error for index, error in failed.items()}

    async def delete(self, handles: Sequence[str]) -> dict[str, StoreError]:
        """Delete the messages for good. Returns the handles that failed, with why."""

        async def ask(entries: list[dict[str, Any]]) -> Any:
            return await self._client.delete_message_batch(QueueUrl=self.url, Entries=entries)

        forms = [{"ReceiptHandle": handle} for handle in handles]
        failed = await self._in_batches(f"delete messages of {self._name}", "DeleteMessageBatch", forms, ask)
        return {handles[index]: error for index, error in failed.items()}

    async def send(self, bodies: Sequence[str], attributes: Mapping[str, str] | None = None) -> dict[int, StoreError]:
        """Send messages, each with the `attributes`. Returns the indexes in `bodies` that failed, with why."""
        return await self.send_each([(body, attributes or {}) for body in bodies])

    async def send_each(self, messages: Sequence[tuple[str, Mapping[str, str]]]) -> dict[int, StoreError]:
        """Send messages with attributes of their own. Returns the indexes in `messages` that failed, with why."""

        async def ask(entries: list[dict[str, Any]]) -> Any:
            return await self._client.send_message_batch(QueueUrl=self.url, Entries=entries)

        forms = []
        for body, attributes in messages:
            given = as_attributes(attributes)
            forms.append({"MessageBody": body, **({"MessageAttributes": given} if given else {})})
        return await self._in_batches(f"send to {self._name}", "SendMessageBatch", forms, ask)

    async def counts(self) -> QueueCounts:
        names = (
            "ApproximateNumberOfMessages",
            "ApproximateNumberOfMessagesNotVisible",
            "ApproximateNumberOfMessagesDelayed",
        )
        found = await self._attributes(f"count the messages of {self._name}", *names)
        return QueueCounts(*(_number(found, name) for name in names))

    async def redrive_policy(self) -> RedrivePolicy:
        """When the queue gives a message up, and where it goes then; empty if it never does."""
        found = await self._attributes(f"look for the dead letters of {self._name}", "RedrivePolicy")
        try:
            policy = json.loads(found.get("RedrivePolicy") or "{}")
            name, receives = policy["deadLetterTargetArn"].rpartition(":")[2], int(policy["maxReceiveCount"])
        except (ValueError, LookupError, TypeError, AttributeError):
            return RedrivePolicy()
        return RedrivePolicy(Sqs(self._client, self._address.beside(name), self._retry), receives)

    async def dead_letter(self) -> Sqs | None:
        """The queue to which this one moves dead letters, if it has one."""
        return (await self.redrive_policy()).dead

    async def redrive(self) -> int:
        """Send all dead letters to this queue again; returns their number, which is approximate on AWS.

        There SQS itself moves them, after the answer. Where it cannot, they are moved here one by one: sent, then
        deleted, so that none is lost. Raises `RefusedError` if the queue has no dead letters' queue.
        """
        dead = await self.dead_letter()
        if dead is None:
            raise self.no_dead_letters()
        count = (await dead.counts()).waiting
        if count:
            try:
                await self._move_from(dead)
            except StoreError:
                if on_aws(self.url):
                    raise
                return await self._move_by_hand(dead, count)
        return count

    def no_dead_letters(self) -> RefusedError:
        """The error for a queue whose dead letters are asked for, and which keeps none."""
        return RefusedError(
            "queue.no_dead_letters",
            f"cannot find the dead letters of {self.url}: the queue has no queue for them",
            hint="create one and name it with its ARN: `aws sqs set-queue-attributes --queue-url URL --attributes "
            '\'{"RedrivePolicy": "{\\"deadLetterTargetArn\\": \\"ARN\\", \\"maxReceiveCount\\": \\"10\\"}"}\'`',
            field="queue",
        )

    async def _move_from(self, dead: Sqs) -> None:
        what = f"move the dead letters of {self._name} back"
        source, target = await dead._arn(), await self._arn()
        async with asking(what, self._retry.stall_s):
            # Not repeated: a second task is refused while the first moves.
            await self._client.start_message_move_task(SourceArn=source, DestinationArn=target)

    async def _move_by_hand(self, dead: Sqs, count: int) -> int:
        moved = 0
        # Not more than there were: one that fails again at once would be moved for ever.
        while moved < count and (letters := await dead.receive(min(count - moved, BATCH), 1, _MOVING_S)):
            for letter in letters:
                for error in (await self.send([letter.body], letter.attributes)).values():
                    raise error
                for error in (await dead.delete([letter.handle])).values():
                    raise error
                moved += 1
        return moved

    async def _arn(self) -> str:
        found = await self._attributes(f"look at {self._name}", "QueueArn")
        return found.get("QueueArn", "")

    async def _attributes(self, what: str, *names: str) -> dict[str, str]:
        async def attempt(_: object) -> dict[str, str]:
            async with asking(what, self._retry.stall_s):
                reply = await self._client.get_queue_attributes(QueueUrl=self.url, AttributeNames=list(names))
                found: dict[str, str] = reply.get("Attributes") or {}
                return found

        return await with_retries(self._retry, what, attempt)

    async def _in_batches(
        self,
        what: str,
        operation: str,
        forms: Sequence[dict[str, Any]],
        ask: Callable[[list[dict[str, Any]]], Awaitable[Any]],
    ) -> dict[int, StoreError]:
        """Ask for all `forms`, some at a time; returns the failures by their index."""
        failed: dict[int, StoreError] = {}
        batches = deque(_batches(forms))
        while batches:
            left = batches.popleft()
            try:
                await self._batch(what, operation, left, failed, ask)
            except UnfitMessageError as error:
                # The whole request is refused for the sake of one of them, or for their sum.
                if len(left) == 1:
                    failed |= dict.fromkeys(left, error)
                else:
                    batches.extendleft(reversed(_halves(left)))
        return failed

    async def _batch(
        self,
        what: str,
        operation: str,
        left: dict[int, dict[str, Any]],
        failed: dict[int, StoreError],
        ask: Callable[[list[dict[str, Any]]], Awaitable[Any]],
    ) -> None:
        """Ask for the forms that are `left`, until none is but those that `failed` for a moment again and again."""

        async def attempt(_: object) -> None:
            for index in left:
                failed.pop(index, None)
            async with asking(what, self._retry.stall_s):
                reply = await ask([{"Id": str(index), **form} for index, form in left.items()])
                done = {each.get("Id") for each in reply.get("Successful", ())}
                refused = {each.get("Id"): _of_entry(each, operation, what, reply) for each in reply.get("Failed", ())}
                if missing := {str(index) for index in left} - done - refused.keys():
                    raise IncompleteReplyError(f"leaves out {len(missing)} of {len(left)} messages")
            failed.update({index: refused[str(index)] for index in left if str(index) in refused})
            for index in [each for each in left if each not in failed or not failed[each].transient]:
                del left[index]
            if left:
                raise failed[next(iter(left))]

        try:
            await with_retries(self._retry, what, attempt)
        except StoreError:
            if not left.keys() <= failed.keys():
                raise

    @property
    def _name(self) -> str:
        return f"the queue {self._address.name}"


@dataclass(frozen=True, slots=True)
class RedrivePolicy:
    """The queue of dead letters, and the number of receives after which a message goes there."""

    dead: Sqs | None = None
    most_receives: int | None = None


def as_attributes(values: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """The attributes of a message or notice; neither SQS nor SNS takes empty ones."""
    return {name: {"DataType": "String", "StringValue": value} for name, value in values.items() if value}


def _batches(forms: Sequence[dict[str, Any]]) -> Iterator[dict[int, dict[str, Any]]]:
    """Cut `forms`, with their indexes, into what a request takes."""
    batch: dict[int, dict[str, Any]] = {}
    size = 0
    for index, form in enumerate(forms):
        own = len(str(form.get("MessageBody", "")).encode()) + len(json.dumps(form.get("MessageAttributes", {})))
        if batch and (len(batch) == BATCH or size + own > BATCH_BYTES):
            yield batch
            batch, size = {}, 0
        batch[index] = form
        size += own
    if batch:
        yield batch


def _halves(batch: dict[int, dict[str, Any]]) -> tuple[dict[int, dict[str, Any]], dict[int, dict[str, Any]]]:
    forms = [*batch.items()]
    middle = len(forms) // 2
    return dict(forms[:middle]), dict(forms[middle:])


def _of_entry(entry: dict[str, Any], operation: str, what: str, reply: dict[str, Any]) -> StoreError:
    """The error of one message in a batch, under the id of the whole request."""
    status = 400 if entry.get("SenderFault") else 500
    answer = {"Error": {"Code": str(entry.get("Code", "")), "Message": str(entry.get("Message") or "")}}
    about = {**reply.get("ResponseMetadata", {}), "HTTPStatusCode": status}
    return translate(ClientError({**answer, "ResponseMetadata": about}, operation), what)


def _delivery(message: dict[str, Any]) -> Delivery:
    system = message.get("Attributes") or {}
    given = message.get("MessageAttributes") or {}
    return Delivery(
        message_id=wanted(message, "MessageId"),
        handle=wanted(message, "ReceiptHandle"),
        body=wanted(message, "Body"),
        receives=_number(system, "ApproximateReceiveCount"),
        sent_at=datetime.fromtimestamp(_number(system, "SentTimestamp") / 1000, UTC),
        attributes={name: str(each["StringValue"]) for name, each in given.items() if "StringValue" in each},
    )


def _number(found: Mapping[str, str], name: str) -> int:
    value = str(wanted(found, name))
    if not value.isdecimal():
        raise IncompleteReplyError(f"has no number in {name}")
    return int(value)
