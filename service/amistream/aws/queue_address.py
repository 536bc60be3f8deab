"""Parses the URL of an SQS queue: its region, its endpoint and its name. Nothing here uses the network."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from amistream.aws.regions import on_aws
from amistream.errors import UsageError

_REGION = re.compile(r"(?:^|\.)([a-z]{2,5}(?:-[a-z]+)+-[0-9]+)\.")
_PATH = re.compile(r"/(?:[^/]+/)*[A-Za-z0-9_-]{1,80}(\.fifo)?")
_OLD_HOST = "queue.amazonaws.com"
_OLD_REGION = "us-east-1"
"""The region of the host that has none in its name."""


@dataclass(frozen=True, slots=True)
class QueueAddress:
    """`region` is '' where the URL names none, as with a compatible endpoint."""

    url: str
    endpoint_url: str
    region: str
    name: str

    def beside(self, name: str) -> QueueAddress:
        """The address of another queue of the same account and region."""
        return QueueAddress(f"{self.url.rpartition('/')[0]}/{name}", self.endpoint_url, self.region, name)


def parse_queue_url(url: str, *, field: str = "queue") -> QueueAddress:
    """Parse `https://sqs.REGION.amazonaws.com/ACCOUNT/NAME`, or the URL of a compatible endpoint.

    The queue is asked at the host of its URL, so that VPC endpoints and other hosts work. Raises `UsageError`, which
    names `field`.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise _no_queue(url, field) from None
    path = parts.path.rstrip("/")
    fits = _PATH.fullmatch(path)
    if parts.scheme not in {"http", "https"} or not host or fits is None or parts.query or parts.username is not None:
        raise _no_queue(url, field)
    if fits[1]:
        raise UsageError(
            "queue.fifo",
            f"cannot use {url}: it is a FIFO queue, which hands out the messages of a group one at a time",
            hint="create a standard queue; the name of a job already keeps it from being done twice",
            field=field,
        )
    if on_aws(url) and parts.scheme == "http":
        raise UsageError(
            "queue.plain",
            f"cannot use {url}: AWS is asked over TLS only",
            hint=f"write https{url.removeprefix('http')}",
            field=field,
        )
    named = _REGION.search(host)
    region = named[1] if named else _OLD_REGION if host == _OLD_HOST else ""
    origin = f"{parts.scheme}://{f'[{host}]' if ':' in host else host}{f':{port}' if port else ''}"
    return QueueAddress(f"{origin}{path}", origin, region, path.rpartition("/")[2])


def _no_queue(url: str, field: str) -> UsageError:
    # A URL that is none is shown without all that could be a password.
    return UsageError(
        "queue.url",
        f"cannot use {re.sub(r'(?s)//.*@', '//', url)!r} as a queue: it is not a queue's URL",
        hint="write https://sqs.REGION.amazonaws.com/ACCOUNT/NAME; `aws sqs get-queue-url --queue-name NAME` shows it",
        field=field,
    )
