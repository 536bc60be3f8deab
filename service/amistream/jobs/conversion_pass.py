"""Makes one pass of a conversion from a source that passed its checks: a volume, or a bundle on its way back."""

from __future__ import annotations

import asyncio
from threading import Semaphore

from amistream.bundles.blocks import BundleBlocks
from amistream.bundles.meter import Meter
from amistream.checks.conversion import BundleSource, ReadyConversion, VolumeSource
from amistream.conversion import Conversion, VolumeBlocks
from amistream.flow.rate_limit import RateLimit
from amistream.flow.retry import RetryPolicy
from amistream.jobs.block_ledger import JournaledBlocks
from amistream.jobs.conversion_progress import ConversionMeter
from amistream.ports.snapshots import SnapshotWriter


async def make_pass(
    ready: ReadyConversion,
    blocks: JournaledBlocks,
    *,
    writer: SnapshotWriter,
    snapshot_id: str,
    retry: RetryPolicy,
    slots: Semaphore,
    limit: int,
) -> tuple[Conversion, ConversionMeter]:
    """A pass from the beginning of the image; `limit` is in bytes per second, 0 for none."""
    match ready.source:
        case VolumeSource(volume=volume, all_read=all_read):
            # A volume may have hundreds of thousands of extents.
            source: VolumeBlocks | BundleBlocks = await asyncio.to_thread(
                VolumeBlocks, volume, ready.plan, all_read=all_read
            )
            lanes = 1
        case BundleSource(unlocked=unlocked):
            source = BundleBlocks(unlocked, Meter(), workers=ready.plan.workers, slots=slots, nice=ready.plan.nice)
            lanes = source.lanes
    conversion = Conversion(
        ready.plan,
        source,
        writer,
        snapshot_id,
        retry=retry,
        slots=slots,
        ledger=blocks,
        earlier=blocks.earlier,
        limit=RateLimit(limit) if limit else None,
    )
    return conversion, ConversionMeter(conversion, read_lanes=lanes, limit=limit)
