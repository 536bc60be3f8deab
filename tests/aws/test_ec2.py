"""EC2's replies as compatible endpoints word them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from amistream.aws.ec2 import Ec2
from amistream.aws.session import Aws
from amistream.settings import Settings
from aws.canned import Canned, Reply

if TYPE_CHECKING:
    import pytest


async def test_tags_without_a_value(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tag whose value is empty, or left out, keeps no AMI from being listed."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    tags = "<item><key>empty</key><value/></item><item><key>none</key></item><item/>"
    reply = Reply(
        status=200,
        body='<DescribeImagesResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/"><imagesSet><item>'
        f"<imageId>ami-1</imageId><tagSet>{tags}</tagSet></item></imagesSet></DescribeImagesResponse>",
    )
    async with Canned(reply) as server, Aws(Settings()) as aws:
        client = await aws.client("ec2", "eu-west-1", server.url)
        (image,) = await Ec2(client, "eu-west-1", 60).own_images()
    assert (image.id, image.tags.get("empty")) == ("ami-1", "")
