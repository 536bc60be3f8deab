"""Uploads a file as the blocks of a snapshot with the SDK alone: `python -m benchmarks.sdk_upload FILE URL PUTS`.

The script that one would write without amistream: SHA-256 and PutSnapshotBlock, many at a time, no repeats. It prints
its wall and CPU seconds, without those of its start, as JSON.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import sys
from pathlib import Path
from time import perf_counter, process_time

from aiobotocore.config import AioConfig
from aiobotocore.session import get_session

from amistream.ports.snapshots import BLOCK
from benchmarks.convert_child import SNAPSHOT
from benchmarks.sink import REGION


async def upload(path: Path, url: str, puts: int) -> dict[str, float]:
    """Send every block that is not zeros."""
    limit, zeros = asyncio.Semaphore(puts), bytes(BLOCK)
    config = AioConfig(max_pool_connections=puts)
    async with get_session().create_client("ebs", region_name=REGION, endpoint_url=url, config=config) as ebs:

        async def put(index: int, data: bytes) -> None:
            try:
                digest = await asyncio.to_thread(lambda: hashlib.sha256(data).digest())
                await ebs.put_snapshot_block(
                    SnapshotId=SNAPSHOT,
                    BlockIndex=index,
                    BlockData=data,
                    DataLength=BLOCK,
                    Checksum=base64.b64encode(digest).decode(),
                    ChecksumAlgorithm="SHA256",
                )
            finally:
                limit.release()

        cpu, wall = process_time(), perf_counter()
        with path.open("rb", buffering=0) as file:
            async with asyncio.TaskGroup() as group:
                index = 0
                while data := await asyncio.to_thread(file.read, BLOCK):
                    if data != zeros:
                        await limit.acquire()
                        group.create_task(put(index, data.ljust(BLOCK, b"\0")))
                    index += 1
        return {"wall_s": perf_counter() - wall, "cpu_s": process_time() - cpu}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(upload(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])))))
