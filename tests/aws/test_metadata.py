"""Facts inherited from an instance, from a real HTTP server that speaks IMDSv2 only."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest

from amistream.aws.metadata import EndNotice, Inherited, end_notice, inherited
from amistream.errors import RefusedError, UnreachedError
from aws.instance import instance

DATA = {
    "block-device-mapping/": "ami\nebs1\nephemeral0\nroot\nswap",
    "block-device-mapping/ami": "sda1",
    "block-device-mapping/ebs1": "sdh",
    "block-device-mapping/ephemeral0": "sdb",
    "block-device-mapping/root": "/dev/sda1",
    "block-device-mapping/swap": "sda3",
    "kernel-id": "aki-12345678",
    "product-codes": "A1B2\nC3D4",
    "ancestor-ami-ids": "ami-11111111",
    "ami-id": "ami-22222222",
}


@pytest.fixture
async def service(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[dict[str, str]]:
    """A metadata service whose data a test may change."""
    data = dict(DATA)
    async with instance(data, monkeypatch):
        yield data


async def test_everything_there_is(service: dict[str, str]) -> None:
    """Mapping without EBS volumes, kernel, product codes, and the ancestors with this instance's own image last."""
    assert await inherited() == Inherited(
        block_device_mappings={"ami": "sda1", "ephemeral0": "sdb", "root": "/dev/sda1", "swap": "sda3"},
        kernel="aki-12345678",
        ramdisk="",
        product_codes=("A1B2", "C3D4"),
        ancestors=("ami-11111111", "ami-22222222"),
    )


async def test_own_image_among_the_ancestors(service: dict[str, str]) -> None:
    """An AMI that the service names twice is one ancestor."""
    service["ancestor-ami-ids"] = "ami-22222222\nami-11111111\nami-22222222"
    assert (await inherited()).ancestors == ("ami-22222222", "ami-11111111")


async def test_an_instance_with_nothing(service: dict[str, str]) -> None:
    """Facts that the service does not know (404) are left out."""
    service.clear()
    assert await inherited() == Inherited()


@pytest.mark.parametrize("status", [403, 404, 405])
async def test_version_1(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A service that gives no tokens is asked without one."""
    async with instance(DATA, monkeypatch, no_tokens=status):
        assert (await inherited()).kernel == "aki-12345678"


async def test_nobody_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Off EC2 the refusal comes soon and says what to leave out."""
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(RefusedError, match="does not answer at http://127") as caught:
        await inherited()
    assert "--inherit" in caught.value.hint


@pytest.mark.parametrize(
    ("path", "text", "notice"),
    [
        ("ami-id", "ami-22222222", None),
        ("autoscaling/target-lifecycle-state", "InService", None),
        (
            "autoscaling/target-lifecycle-state",
            "Terminated\n",
            EndNotice("its Auto Scaling group ends the instance", None),
        ),
        (
            "spot/instance-action",
            '{"action": "terminate", "time": "2026-11-29T08:22:00Z"}',
            EndNotice("the spot instance is interrupted", datetime(2026, 11, 29, 8, 22, tzinfo=UTC)),
        ),
        ("spot/instance-action", '{"action": "stop"}', EndNotice("the spot instance is interrupted", None)),
        ("spot/instance-action", "soon", EndNotice("the spot instance is interrupted", None)),
    ],
)
async def test_the_end_is_near(path: str, text: str, notice: EndNotice | None, service: dict[str, str]) -> None:
    """An interruption of a spot instance and a scale-in of the group are noticed, and nothing else is."""
    service[path] = text
    assert await end_notice() == notice


async def test_nobody_says_when_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Off EC2 the failure may pass, and says who has metadata."""
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(UnreachedError) as caught:
        await end_notice()
    assert (caught.value.code, caught.value.transient) == ("metadata.unreachable", True)
