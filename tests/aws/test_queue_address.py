"""URLs of queues."""

from __future__ import annotations

import pytest

from amistream.aws.queue_address import parse_queue_url
from amistream.errors import UsageError


@pytest.mark.parametrize(
    ("url", "endpoint", "region"),
    [
        ("https://sqs.eu-west-1.amazonaws.com/123456789012/work", "https://sqs.eu-west-1.amazonaws.com", "eu-west-1"),
        ("https://sqs.cn-north-1.amazonaws.com.cn/1/work", "https://sqs.cn-north-1.amazonaws.com.cn", "cn-north-1"),
        ("https://eu-west-1.queue.amazonaws.com/1/work", "https://eu-west-1.queue.amazonaws.com", "eu-west-1"),
        ("https://queue.amazonaws.com/1/work", "https://queue.amazonaws.com", "us-east-1"),
        (
            "https://sqs-fips.us-gov-west-1.amazonaws.com/1/work",
            "https://sqs-fips.us-gov-west-1.amazonaws.com",
            "us-gov-west-1",
        ),
        (
            "https://vpce-0a1b2c3d-e4f5.sqs.ap-southeast-2.vpce.amazonaws.com/1/work",
            "https://vpce-0a1b2c3d-e4f5.sqs.ap-southeast-2.vpce.amazonaws.com",
            "ap-southeast-2",
        ),
        ("https://sqs.us-east-1.api.aws/1/work/", "https://sqs.us-east-1.api.aws", "us-east-1"),
        ("http://127.0.0.1:4566/000000000000/work", "http://127.0.0.1:4566", ""),
        ("http://[::1]:4566/000000000000/work", "http://[::1]:4566", ""),
        ("http://sqs.eu-west-1.localhost:4566/1/work", "http://sqs.eu-west-1.localhost:4566", "eu-west-1"),
        ("https://cloud.example.com/sqs/v1/work", "https://cloud.example.com", ""),
    ],
)
def test_the_region_and_the_endpoint(url: str, endpoint: str, region: str) -> None:
    """The region and the endpoint of a queue are those of its URL."""
    address = parse_queue_url(url)
    assert (address.endpoint_url, address.region, address.name) == (endpoint, region, "work")
    assert address.url == url.rstrip("/")
    assert address.beside("work-dead").url == address.url.replace("/work", "/work-dead")


@pytest.mark.parametrize(
    "url",
    [
        *("", "work", "sqs.eu-west-1.amazonaws.com/1/work", "https://sqs.eu-west-1.amazonaws.com", "https:///1/work"),
        *("https://sqs.eu-west-1.amazonaws.com/1/wo rk", "s3://bucket/work", "https://[::1/1/work"),
        *("https://sqs.eu-west-1.amazonaws.com/1/work?Action=Purge", "https://host:port/1/work"),
        "arn:aws:sqs:eu-west-1:123456789012:work",
    ],
)
def test_what_is_no_queue(url: str) -> None:
    """Text that is no queue's URL is refused, with the form of one."""
    with pytest.raises(UsageError) as caught:
        parse_queue_url(url, field="queue_url")
    assert (caught.value.code, caught.value.field) == ("queue.url", "queue_url")
    assert "https://sqs.REGION.amazonaws.com/ACCOUNT/NAME" in caught.value.hint


def test_a_password_is_not_shown() -> None:
    """A user and a password in a URL are refused and stay out of the message."""
    with pytest.raises(UsageError) as caught:
        parse_queue_url("https://user:hunter2@sqs.eu-west-1.amazonaws.com/1/work")
    assert caught.value.code == "queue.url"
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("https://sqs.eu-west-1.amazonaws.com/1/work.fifo", "queue.fifo"),
        ("http://sqs.eu-west-1.amazonaws.com/1/work", "queue.plain"),
    ],
)
def test_a_queue_that_does_not_serve(url: str, code: str) -> None:
    """A FIFO queue, and AWS without TLS, are refused with their fix."""
    with pytest.raises(UsageError) as caught:
        parse_queue_url(url)
    assert caught.value.code == code
    assert caught.value.hint
