"""The page lists buckets and counts queues as the commands do, and as rarely as it can."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from amistream.settings import Settings
from amistream.web.bundles import SOONEST_S
from amistream.web.queue import KEPT_S
from support.loop import TidyLoop
from support.queues import queue_at
from web.rig import serving_page

if TYPE_CHECKING:
    from support.endpoints import Endpoint


async def test_buckets_and_queue_are_shown(bucket: str, cloud: Endpoint, tmp_path: Path) -> None:
    """A bucket's bundles come with cost, listed once for several pages; queues are counted; an error has its code."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, TidyLoop)
    with ExitStack() as stack:
        jobs = stack.enter_context(queue_at(cloud, receives=5))
        results = stack.enter_context(queue_at(cloud))
        with cloud.blocking_client("sqs") as sqs:
            sqs.send_message(QueueUrl=jobs, MessageBody="{}")
        settings = Settings(endpoint_url=cloud.url, region=cloud.region)
        buckets = (f"s3://{bucket}", "s3://amistream-there-is-none")
        async with serving_page(
            tmp_path / "none.sock", settings=settings, buckets=buckets, queue=jobs, results=results
        ) as served:
            await served.enter()
            assert (await served.ask("GET", "/api/buckets"))[1] == {"buckets": list(buckets)}
            status, listing, _ = await served.ask("GET", "/api/buckets/0")
            assert status == 200
            (bundle,) = listing["inventory"]["bundles"]
            assert (bundle["parts"], bundle["problem"]) == (3, "")
            assert bundle["cost"] is not None
            loop.put_forward(SOONEST_S + 1)
            for query, same in (("", True), ("?anew", False)):
                again = (await served.ask("GET", f"/api/buckets/0{query}"))[1]
                assert (again["listed_at"] == listing["listed_at"]) is same
            status, body, _ = await served.ask("GET", "/api/buckets/1")
            assert (status, body["error"]["code"]) == (422, "bucket.missing")
            fleet = (await served.ask("GET", "/api/queue"))[1]["fleet"]
            assert (fleet["waiting"], fleet["dead"], fleet["results"]["done"]) == (1, 0, 0)


async def test_results_are_received_when_their_number_changes(cloud: Endpoint, tmp_path: Path) -> None:
    """A page that stays open does not receive the same results again and again: their queue may limit receives."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, TidyLoop)
    with queue_at(cloud) as jobs, queue_at(cloud) as results, cloud.blocking_client("sqs") as sqs:
        settings = Settings(endpoint_url=cloud.url, region=cloud.region)
        async with serving_page(tmp_path / "none.sock", settings=settings, queue=jobs, results=results) as served:
            await served.enter()

            async def look(times: int) -> None:
                for _ in range(times):
                    loop.put_forward(KEPT_S + 1)
                    status, body, _ = await served.ask("GET", "/api/queue")
                    assert (status, body["fleet"]["results"]["failed"]) == (200, 0)

            sqs.send_message(QueueUrl=results, MessageBody="{}")
            await look(3)
            sqs.send_message(QueueUrl=results, MessageBody="{}")
            await look(2)
        found = sqs.receive_message(
            QueueUrl=results, MaxNumberOfMessages=10, AttributeNames=["ApproximateReceiveCount"]
        )["Messages"]
        assert sorted(int(each["Attributes"]["ApproximateReceiveCount"]) - 1 for each in found) == [1, 2]
