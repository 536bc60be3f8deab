"""Estimates a conversion before it begins, or many of them.

Reads a sample of the source. Writes nothing, so the link to EBS is not measured.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from time import perf_counter

from amistream.aws.session import Aws
from amistream.bundles.fetch import Range, fetch
from amistream.bundles.results import ConvertibleBundle
from amistream.checks.bundle_source import BundleChecks
from amistream.checks.conversion import ConversionChecks, conversion_checks
from amistream.checks.conversion_context import ConversionContext
from amistream.checks.findings import refuse_if_failed, run_checks
from amistream.checks.source import SourceChecks
from amistream.errors import StoreError
from amistream.jobs.forecast import LIMIT, MOST, PROBE, SAMPLE_S, Forecast, longest
from amistream.jobs.tune import sample_extents
from amistream.ports.snapshots import BLOCK
from amistream.request.convert import ConvertRequest
from amistream.settings import Settings
from amistream.values import GIB

SNAPSHOT_PRICE, USD_PER_BLOCK = 0.05, 0.006 / 1000
"""USD per GiB and month of a snapshot, and for one block that is sent, in most regions."""
NOT_MEASURED = "the link to EBS was not measured: a probe would be a snapshot"
_BUNDLE = "how much of a bundle's image is zeros is not known before it is read: it may send less, and cost less"
READING = "reading"
_NO_SAMPLE = "nothing was read of the bundles: the time is not known"


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
        sample = await _read_parts(bundle)
        blocks = -(-size // BLOCK)
        notes.append(_BUNDLE)
    sent = blocks * BLOCK
    rate = sample.size / sample.seconds if sample.seconds else None
    seconds, limited_by = longest({READING: read / rate if rate else 0.0, LIMIT: sent / limit if limit else 0.0})
    return Forecast(
        image_size=size,
        read_size=read,
        sent_size=sent,
        is_most=bundle is not None,
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


async def _read_parts(bundle: BundleChecks) -> _Sample:
    """Read the first parts, as the job would, until the time is up, or enough is read."""
    size = 0
    started = perf_counter()

    async def take(_: Range, data: bytes) -> bool:
        nonlocal size
        size += len(data)
        return size < PROBE and perf_counter() < started + SAMPLE_S

    with suppress(TimeoutError, StoreError):
        async with asyncio.timeout(2 * SAMPLE_S):
            await fetch(bundle.bundle.place.store, bundle.parts, take)
    return _Sample(size=size, data=size, seconds=perf_counter() - started)


def forecast_every(bundles: Sequence[ConvertibleBundle], first: Forecast | None, *, at_once: int) -> Forecast:
    """Add up the conversions of bundles, from their manifests and the plan of one of them, which has read a sample.

    The jobs share the link that their parts come over.
    """
    read = sum(bundle.stored for bundle in bundles)
    blocks = sum(-(-bundle.image_size // BLOCK) for bundle in bundles)
    rate = first.local_rate if first is not None else None
    seconds, limited_by = longest({READING: read / rate if rate else 0.0})
    notes = [NOT_MEASURED, _BUNDLE] if rate else [NOT_MEASURED, _NO_SAMPLE, _BUNDLE]
    return Forecast(
        image_size=sum(bundle.image_size for bundle in bundles),
        read_size=read,
        sent_size=blocks * BLOCK,
        is_most=True,
        pieces=blocks,
        requests=blocks,
        seconds=seconds,
        is_least=True,
        limited_by=limited_by,
        local_rate=rate,
        link_rate=None,
        sample_size=first.sample_size if first is not None else 0,
        probe_size=0,
        memory=min(at_once, len(bundles)) * (first.memory if first is not None else 0),
        stored_in=first.stored_in if first is not None else "EBS snapshots",
        price=SNAPSHOT_PRICE,
        cost=blocks * BLOCK / GIB * SNAPSHOT_PRICE,
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
