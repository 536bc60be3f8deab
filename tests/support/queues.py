"""Queues of a test's own."""

from __future__ import annotations

import json
import secrets
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.endpoints import Endpoint


@contextmanager
def queue_at(endpoint: Endpoint, *, receives: int = 0) -> Iterator[str]:
    """Create a queue and give its URL; messages that were received `receives` times go to a queue NAME-dead beside it.

    Both are deleted afterwards.
    """
    name = f"amistream-{secrets.token_hex(6)}"
    with endpoint.blocking_client("sqs") as sqs:
        made = []
        attributes = {}
        if receives:
            made.append(sqs.create_queue(QueueName=f"{name}-dead")["QueueUrl"])
            found = sqs.get_queue_attributes(QueueUrl=made[0], AttributeNames=["QueueArn"])["Attributes"]
            policy = {"deadLetterTargetArn": found["QueueArn"], "maxReceiveCount": str(receives)}
            attributes["RedrivePolicy"] = json.dumps(policy)
        made.append(sqs.create_queue(QueueName=name, Attributes=attributes)["QueueUrl"])
        try:
            yield made[-1]
        finally:
            for url in made:
                sqs.delete_queue(QueueUrl=url)
