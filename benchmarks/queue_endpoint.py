"""Queues and a bucket in memory for a fleet of daemons: `python -m benchmarks.queue_endpoint`, in a process of its own.

It answers what they ask of SQS and of a bucket with bundles, quickly, so that the daemons are what is measured. It is
not a server: no signature is checked, a message is never lost or delivered twice, and none becomes a dead letter. Every
request is counted by its operation.

The port is printed on standard output; the end of standard input ends it, so it never outlives who started it.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
import time
import uuid
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any

import uvloop
from aiohttp import web

STATS_PATH = "/-/stats"
"""GET: the `Stats` as JSON. No bucket can have this name."""
REGION = "eu-west-1"
OBJECTS = "objects"
"""The name under which all requests to buckets are counted."""


@dataclass(slots=True)
class Queue:
    """Messages that wait, and those that are held, by their receipt handle."""

    waiting: deque[dict[str, Any]] = field(default_factory=deque)
    held: dict[str, tuple[dict[str, Any], float]] = field(default_factory=dict)
    arrived: asyncio.Condition = field(default_factory=asyncio.Condition)
    sent_at: list[float] = field(default_factory=list)
    """Times at which the messages were sent, by the clock of the system."""

    async def send(self, bodies: list[str]) -> None:
        async with self.arrived:
            for body in bodies:
                self.waiting.append({"MessageId": uuid.uuid4().hex, "Body": body, "receives": 0})
                self.sent_at.append(time.time())
            self.arrived.notify_all()

    async def receive(self, most: int, wait_s: float, visibility_s: float) -> list[dict[str, Any]]:
        async with self.arrived:
            try:
                async with asyncio.timeout(wait_s):
                    await self.arrived.wait_for(self._has_some)
            except TimeoutError:
                return []
            return [self._hand_out(visibility_s) for _ in range(min(most, len(self.waiting)))]

    def extend(self, handle: str, seconds: float) -> bool:
        if handle not in self.held:
            return False
        message, _ = self.held.pop(handle)
        if seconds:
            self.held[handle] = message, time.monotonic() + seconds
        else:
            self.waiting.append(message)
        return True

    def _has_some(self) -> bool:
        now = time.monotonic()
        for handle in [each for each, (_, until) in self.held.items() if until < now]:
            self.waiting.append(self.held.pop(handle)[0])
        return bool(self.waiting)

    def _hand_out(self, visibility_s: float) -> dict[str, Any]:
        message = self.waiting.popleft()
        message["receives"] += 1
        handle = uuid.uuid4().hex
        self.held[handle] = message, time.monotonic() + visibility_s
        numbers = {"ApproximateReceiveCount": str(message["receives"]), "SentTimestamp": str(int(time.time() * 1000))}
        return {
            "MessageId": message["MessageId"],
            "Body": message["Body"],
            "ReceiptHandle": handle,
            "Attributes": numbers,
        }


class Endpoint:
    """The queues, which exist once they are named, and the objects by their paths."""

    def __init__(self) -> None:
        self._queues: dict[str, Queue] = {}
        self._objects: dict[str, bytes] = {}
        self._calls: Counter[str] = Counter()

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.path == STATS_PATH:
            sent = {name: queue.sent_at for name, queue in self._queues.items()}
            left = {name: len(queue.waiting) + len(queue.held) for name, queue in self._queues.items()}
            last = {name: queue.waiting[-1]["Body"] for name, queue in self._queues.items() if queue.waiting}
            return web.json_response({"calls": self._calls, "sent": sent, "left": left, "last": last})
        if target := request.headers.get("X-Amz-Target"):
            operation = target.rpartition(".")[2]
            self._calls[operation] += 1
            return web.json_response(await self._ask(operation, json.loads(await request.read())))
        self._calls[OBJECTS] += 1
        return await self._object(request)

    async def _ask(self, operation: str, asked: dict[str, Any]) -> dict[str, Any]:
        queue = self._queues.setdefault(asked["QueueUrl"].rpartition("/")[2], Queue())
        entries: list[dict[str, Any]] = asked.get("Entries", [])
        done = [{"Id": each["Id"]} for each in entries]
        match operation:
            case "ReceiveMessage":
                most, wait_s = asked["MaxNumberOfMessages"], asked["WaitTimeSeconds"]
                return {"Messages": await queue.receive(most, wait_s, asked["VisibilityTimeout"])}
            case "SendMessageBatch":
                await queue.send([each["MessageBody"] for each in entries])
                return {"Successful": [{**each, "MessageId": "m", "MD5OfMessageBody": ""} for each in done]}
            case "DeleteMessageBatch":
                for each in entries:
                    queue.held.pop(each["ReceiptHandle"], None)
                return {"Successful": done}
            case "ChangeMessageVisibilityBatch":
                kept = [queue.extend(each["ReceiptHandle"], each["VisibilityTimeout"]) for each in entries]
                lost = {"Code": "ReceiptHandleIsInvalid", "SenderFault": True}
                failed = [{**each, **lost} for each, is_kept in zip(done, kept, strict=True) if not is_kept]
                return {
                    "Successful": [each for each, is_kept in zip(done, kept, strict=True) if is_kept],
                    "Failed": failed,
                }
            case _:
                return {"Attributes": {}}

    async def _object(self, request: web.BaseRequest) -> web.Response:
        if request.method == "PUT":
            self._objects[request.path] = await request.read()
            return web.Response()
        if not request.path.strip("/").partition("/")[2]:
            # Every bucket exists.
            return web.Response(headers={"x-amz-bucket-region": REGION})
        if "acl" in request.query:
            return web.Response(status=501, text="<Error><Code>NotImplemented</Code></Error>")
        body = self._objects.get(request.path)
        if body is None:
            return web.Response(status=404, text="<Error><Code>NoSuchKey</Code></Error>")
        return web.Response(body=body, headers={"ETag": f'"{hashlib.md5(body).hexdigest()}"'})  # noqa: S324 - as S3 does


async def serve() -> None:
    """Listen on a free port of the loopback until standard input ends."""
    endpoint = Endpoint()
    runner = web.ServerRunner(web.Server(endpoint.answer, access_log=None))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, shutdown_timeout=0.1)
    await site.start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await runner.cleanup()


if __name__ == "__main__":
    uvloop.run(serve())
