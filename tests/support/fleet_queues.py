"""Queues at a real endpoint: one of jobs with its dead letters, and one of results."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from support.queues import queue_at

if TYPE_CHECKING:
    from support.endpoints import Endpoint

PATIENCE_S = 60.0


@dataclass(frozen=True)
class Queues:
    """URLs of the queues, and what is in them."""

    endpoint: Endpoint
    jobs: str
    dead: str
    results: str

    def settings(self, **changes: Any) -> dict[str, Any]:
        """The settings of a daemon that takes jobs from there, with any source and destination."""
        given = {
            "queue_url": self.jobs,
            "results": f"sqs:{self.results}",
            "queue_sources": "s3://,/,snap-",
            "queue_destinations": "s3://,/",
            "endpoint_url": self.endpoint.url,
            # A stopping daemon waits for its poll: a third of it.
            "queue_visibility_s": 9,
            "register_poll_s": 0.05,
            "backoff_base_s": 0.05,
            "backoff_cap_s": 0.2,
        }
        return {**given, **changes}

    def send(self, job: str, kind: str, **request: Any) -> None:
        self.send_text(json.dumps({"v": 1, "job": job, "kind": kind, "request": request}))

    def send_text(self, body: str) -> None:
        with self.endpoint.blocking_client("sqs") as sqs:
            sqs.send_message(QueueUrl=self.jobs, MessageBody=body)

    def wait_results(self, count: int, *, patience_s: float = PATIENCE_S) -> list[dict[str, Any]]:
        """Take results from their queue until there are so many."""
        found: list[dict[str, Any]] = []
        end = time.monotonic() + patience_s
        while len(found) < count:
            assert time.monotonic() < end, found
            found += self.take_results(wait_s=5)
        return found

    def take_results(self, wait_s: int = 0) -> list[dict[str, Any]]:
        return [json.loads(message["Body"]) for message in self._take(self.results, wait_s)]

    def letters(self) -> list[dict[str, Any]]:
        """The dead letters, each with its attributes as text."""
        return [
            {"body": each["Body"]}
            | {name: value["StringValue"] for name, value in each.get("MessageAttributes", {}).items()}
            for each in self._take(self.dead, 0)
        ]

    def left(self) -> int:
        """Number of messages in the queue of jobs, held ones included."""
        with self.endpoint.blocking_client("sqs") as sqs:
            names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
            found = sqs.get_queue_attributes(QueueUrl=self.jobs, AttributeNames=names)["Attributes"]
        return sum(int(found[name]) for name in names)

    def _take(self, url: str, wait_s: int) -> list[dict[str, Any]]:
        with self.endpoint.blocking_client("sqs") as sqs:
            arguments = {"MaxNumberOfMessages": 10, "WaitTimeSeconds": wait_s, "MessageAttributeNames": ["All"]}
            messages: list[dict[str, Any]] = sqs.receive_message(QueueUrl=url, **arguments).get("Messages", [])
            for each in messages:
                sqs.delete_message(QueueUrl=url, ReceiptHandle=each["ReceiptHandle"])
        return messages


@contextmanager
def open_queues(endpoint: Endpoint, *, most_receives: int = 5) -> Iterator[Queues]:
    """Make the queues, and delete them in the end."""
    with queue_at(endpoint, receives=most_receives) as jobs, queue_at(endpoint) as results:
        yield Queues(endpoint, jobs, f"{jobs}-dead", results)
