"""Sends notices of jobs that ended: to an EventBridge bus, an SNS topic or an SQS queue.

A notice is one JSON document under an id. A transient failure is repeated, so that the same notice may arrive twice:
receivers know it by the id. Errors are translated.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from botocore.exceptions import ClientError

from amistream.aws.session import Aws
from amistream.aws.sqs import Sqs, as_attributes, open_sqs
from amistream.aws.translate import IncompleteReplyError, asking, translate, wanted
from amistream.errors import StoreError, UsageError
from amistream.flow.retry import RetryPolicy, retry_policy, with_retries
from amistream.settings import Settings
from amistream.values import KIB

MOST_BYTES = 256 * KIB
"""Bytes of a notice that every outlet takes, with some KiB for its attributes. AWS limit, of SNS and EventBridge."""
SOURCE = "amistream"
"""The source of the events on a bus."""


class Sendable(Protocol):
    """A notice: a JSON document under its id; `outcome`, such as `done`, is for the receivers' filters."""

    @property
    def notice_id(self) -> str: ...

    @property
    def document(self) -> str: ...

    @property
    def outcome(self) -> str: ...


class Outlet(Protocol):
    """Takes notices."""

    async def send(self, notices: Sequence[Sendable]) -> dict[str, StoreError]:
        """Send notices. Returns the ids of those that did not arrive although that was repeated, with why."""


async def open_outlet(address: str, aws: Aws, settings: Settings, *, region: str = "") -> Outlet:
    """The outlet at `events:BUS`, `sns:ARN` or `sqs:URL`, for as long as `aws` is open. Nothing is asked yet.

    `region` is that of a bus without an ARN. Raises `UsageError` for an address that is none, and `RefusedError` or
    `StoreError`.
    """
    kind, _, place = address.partition(":")
    retry = retry_policy(settings)
    match kind:
        case "sqs" if place:
            return QueueOutlet(await open_sqs(aws, place, settings, named="results"))
        case "sns" if place.startswith("arn:") and not place.endswith(".fifo"):
            return TopicOutlet(await _client(aws, "sns", place, settings, region), place, retry)
        case "events" if place:
            return BusOutlet(await _client(aws, "events", place, settings, region), place, retry)
    raise UsageError(
        "results.address",
        f"cannot use {address!r} for results: it is none of events:BUS, sns:ARN and sqs:URL",
        hint='write results = "events:default", "sns:arn:aws:sns:REGION:ACCOUNT:TOPIC" (no FIFO topic) or '
        '"sqs:https://sqs.REGION.amazonaws.com/ACCOUNT/NAME"',
        field="results",
    )


async def _client(aws: Aws, service: str, place: str, settings: Settings, region: str) -> Any:
    """The client for a topic or bus, in the region of its ARN."""
    parts = place.split(":")
    own = parts[3] if place.startswith("arn:") and len(parts) > 4 else ""  # noqa: PLR2004 - arn:aws:SERVICE:REGION:...
    return await aws.client(service, own or region or await aws.default_region(), settings.endpoint_url)


@dataclass(frozen=True, slots=True)
class QueueOutlet:
    """An SQS queue, which takes several notices in a request."""

    queue: Sqs

    async def send(self, notices: Sequence[Sendable]) -> dict[str, StoreError]:
        messages = [(each.document, {"id": each.notice_id, "outcome": each.outcome}) for each in notices]
        try:
            failed = await self.queue.send_each(messages)
        except StoreError as error:
            return {each.notice_id: error for each in notices}
        return {notices[index].notice_id: error for index, error in failed.items()}


@dataclass(frozen=True, slots=True)
class TopicOutlet:
    """An SNS topic."""

    client: Any
    arn: str
    retry: RetryPolicy

    async def send(self, notices: Sequence[Sendable]) -> dict[str, StoreError]:
        return await _one_by_one(self._send, notices)

    async def _send(self, notice: Sendable) -> None:
        what = f"publish a result to {self.arn.rpartition(':')[2]}"

        async def attempt(_: object) -> None:
            async with asking(what, self.retry.stall_s):
                given = as_attributes({"id": notice.notice_id, "outcome": notice.outcome})
                reply = await self.client.publish(TopicArn=self.arn, Message=notice.document, MessageAttributes=given)
                wanted(reply, "MessageId")

        await with_retries(self.retry, what, attempt)


@dataclass(frozen=True, slots=True)
class BusOutlet:
    """An EventBridge bus. An event has the source `amistream` and the detail type `amistream job OUTCOME`."""

    client: Any
    bus: str
    retry: RetryPolicy

    async def send(self, notices: Sequence[Sendable]) -> dict[str, StoreError]:
        return await _one_by_one(self._send, notices)

    async def _send(self, notice: Sendable) -> None:
        what = f"put the result {notice.notice_id} on the event bus {self.bus.rpartition('/')[2]}"
        entry = {
            "Source": SOURCE,
            "DetailType": f"amistream job {notice.outcome}",
            "Detail": notice.document,
            "EventBusName": self.bus,
        }

        async def attempt(_: object) -> None:
            async with asking(what, self.retry.stall_s):
                reply = await self.client.put_events(Entries=[entry])
                for each in wanted(reply, "Entries"):
                    if code := each.get("ErrorCode"):
                        raise translate(_refused(str(code), str(each.get("ErrorMessage") or ""), reply), what)
                    if not each.get("EventId"):
                        raise IncompleteReplyError("has no EventId")

        await with_retries(self.retry, what, attempt)


async def _one_by_one(
    send: Callable[[Sendable], Awaitable[None]], notices: Sequence[Sendable]
) -> dict[str, StoreError]:
    failed: dict[str, StoreError] = {}
    for notice in notices:
        try:
            await send(notice)
        except StoreError as error:
            failed[notice.notice_id] = error
    return failed


def _refused(code: str, message: str, reply: dict[str, Any]) -> ClientError:
    # EventBridge says in an entry only what went wrong, not whose fault it is; the table knows which codes pass.
    about = {**reply.get("ResponseMetadata", {}), "HTTPStatusCode": 0}
    return ClientError({"Error": {"Code": code, "Message": message}, "ResponseMetadata": about}, "PutEvents")
