"""Converts an image, a tree or a bundle into a discarding endpoint, without a job: `benchmarks.convert_child`.

Reads a `ConvertSpec` as JSON from standard input, writes `Figures`. A few blocks are sent before, so that what is
loaded and connected once in a daemon's life is not counted.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from time import perf_counter, process_time

import uvloop

from amistream import log
from amistream.aws.ebs import open_ebs
from amistream.aws.session import Aws
from amistream.bundles.blocks import BundleBlocks
from amistream.bundles.meter import Meter
from amistream.bundles.owner import find_owner
from amistream.bundles.place import find_bundle, open_place
from amistream.bundles.unlocked import unlock
from amistream.conversion import BlockSource, Conversion, ConversionPlan, VolumeBlocks
from amistream.flow.retry import retry_policy
from amistream.location import parse_manifest_address
from amistream.ports.snapshots import BLOCK, SnapshotWriter
from amistream.process import settle_memory
from amistream.settings import LogFormat, Settings
from amistream.source.file import open_volume
from amistream.source.tree.opening import TreeWishes, open_tree
from benchmarks.child import forget_peak, peak_rss
from benchmarks.jobs import LARGEST, ConvertSpec, Figures
from benchmarks.sink import REGION

SNAPSHOT = "snap-0123456789abcdef0"
_WARM_UPS = 8


async def convert(spec: ConvertSpec) -> Figures:
    """Make one pass."""
    settings = Settings(**spec.settings)
    async with Aws(settings) as aws, _source(spec, settings, aws) as (plan, source):
        writer = await open_ebs(aws, REGION, spec.endpoint_url, settings.stall_timeout_s)
        await _warm_up(writer)
        forget_peak()
        cpu, wall = process_time(), perf_counter()
        conversion = Conversion(plan, source, writer, SNAPSHOT, retry=retry_policy(settings))
        converted = await conversion.run()
        wall, cpu = perf_counter() - wall, process_time() - cpu
    return Figures(
        size=converted.blocks_read * BLOCK,
        bundled_size=converted.blocks_put * BLOCK,
        wall_s=wall,
        cpu_s=cpu,
        peak_rss=peak_rss(),
        bottleneck=None,
    )


@asynccontextmanager
async def _source(spec: ConvertSpec, settings: Settings, aws: Aws) -> AsyncIterator[tuple[ConversionPlan, BlockSource]]:
    path = Path(spec.source)
    workers = settings.worker_count()
    if path.name.endswith(".xml"):
        folder, name = parse_manifest_address(spec.source)
        bundle = await find_bundle(await open_place(folder, settings, aws), name)
        unlocked = await unlock(bundle, find_owner(settings, None, None), Meter(), lambda _: None)
        yield ConversionPlan(workers=workers, puts=spec.puts), BundleBlocks(unlocked, Meter(), workers=workers)
        return
    volume = open_volume(path) if spec.size is None else open_tree(path, TreeWishes(most=LARGEST, size=spec.size))
    try:
        plan = ConversionPlan(workers=workers, puts=spec.puts, extents=volume.extents())
        yield plan, VolumeBlocks(volume, plan)
    finally:
        volume.close()


async def _warm_up(writer: SnapshotWriter) -> None:
    data = os.urandom(BLOCK)
    digest = hashlib.sha256(data).digest()
    async with asyncio.TaskGroup() as group:
        for index in range(_WARM_UPS):
            group.create_task(writer.put(SNAPSHOT, index, data, digest))


def main() -> None:
    settle_memory()
    spec = ConvertSpec.model_validate_json(sys.stdin.read())
    log.configure("error", LogFormat.TEXT)
    print(uvloop.run(convert(spec)).model_dump_json())


if __name__ == "__main__":
    main()
