"""Estimates a conversion before it begins. Reads a sample of a volume; writes nothing, so the link is not measured."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass
from time import perf_counter

from amistream.aws.session import Aws
from amistream.checks.conversion import ConversionChecks, conversion_checks
from amistream.checks.conversion_context import ConversionContext
from amistream.checks.findings import refuse_if_failed, run_checks
from amistream.checks.source import SourceChecks
from amistream.jobs.forecast import LIMIT, MOST, SAMPLE_S, Forecast, longest
from amistream.jobs.tune import sample_extents
from amistream.ports.snapshots import BLOCK
from amistream.request import ConvertRequest
from amistream.settings import Settings
from amistream.values import GIB

SNAPSHOT_PRICE, USD_PER_BLOCK = 0.05, 0.006 / 1000
"""USD per GiB and month of a snapshot, and for one block that is sent, in most regions."""
NOT_MEASURED = "the link was not measured: a probe of EBS would be a snapshot"
_BUNDLE = "how much of a bundle's image is zeros is not known before it is read: it may send less"


async def forecast_conversion(request: ConvertRequest, settings: Settings) -> Forecast:
    """Estimate a conversion. Raises `RefusedError`."""
    async with Aws(settings) as aws:
        checks = await conversion_checks(ConversionContext(request, settings, aws, "plan"))
        try:
            found = await run_checks(checks.survey())
            refuse_if_failed([each for each in found if each.name in _NEEDED])
            return await _forecast(checks, int(request.limit_upload or settings.limit_upload or 0))
        finally:
            await checks.close()


_NEEDED = {"source", "size", "free_blocks", "bundle", "keys", "parts", "memory_limit"}
"""Checks without which there is nothing to estimate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sample:
    size: int
    data: int
    """Bytes of blocks that are not all zeros."""
    seconds: float


async def _forecast(checks: ConversionChecks, limit: int) -> Forecast:
    notes = [NOT_MEASURED]
    snapshot, volume, bundle = checks.snapshot, checks.volume, checks.bundle
    sample = _Sample(size=0, data=0, seconds=0.0)
    if volume is not None:
        size, read = volume.size, volume.data
        sample = await asyncio.to_thread(_read_sample, volume)
        blocks = round(-(-read // BLOCK) * sample.data / sample.size) if sample.size else 0
    else:
        assert bundle is not None  # noqa: S101 - for the type checker: it is one of both
        size, read = bundle.size, bundle.bundle.manifest.bundled_size
        blocks = -(-size // BLOCK)
        notes.append(_BUNDLE)
    sent = blocks * BLOCK
    rate = sample.size / sample.seconds if sample.seconds else None
    seconds, limited_by = longest({"reading": read / rate if rate else 0.0, LIMIT: sent / limit if limit else 0.0})
    return Forecast(
        image_size=size,
        read_size=read,
        sent_size=sent,
        pieces=blocks,
        requests=blocks,
        seconds=seconds,
        is_least=True,
        limited_by=limited_by,
        local_rate=rate,
        link_rate=None,
        sample_size=sample.size,
        probe_size=0,
        memory=snapshot.most_memory,
        stored_in=f"an EBS snapshot in {snapshot.region}" if snapshot.region else "an EBS snapshot",
        price=SNAPSHOT_PRICE,
        cost=sent / GIB * SNAPSHOT_PRICE,
        cost_of_requests=blocks * USD_PER_BLOCK,
        notes=tuple(notes),
    )


def _read_sample(checks: SourceChecks) -> _Sample:
    """Read and hash blocks from all over the volume, as the job would, until the time is up. Blocks."""
    size = data = 0
    started = perf_counter()
    buffer = memoryview(bytearray(BLOCK))
    extents = sample_extents(checks.extents, MOST)
    for offset, end in ((at, each.end) for each in extents for at in range(each.offset, each.end, BLOCK)):
        block = buffer[: min(BLOCK, end - offset)]
        checks.volume.read_into(offset, block)
        size += len(block)
        if any(block):
            hashlib.sha256(block).digest()
            data += len(block)
        if perf_counter() > started + SAMPLE_S:
            break
    return _Sample(size=size, data=data, seconds=perf_counter() - started)
