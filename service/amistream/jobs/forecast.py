"""Estimates a job before it begins: what it reads and sends, how long it takes, its memory, and its cost a month.

Nothing is kept: a sample of the volume is compressed as the job would, and a few objects are put to the destination and
deleted again, which shows the speed of the link.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, replace

from pydantic import BaseModel, ConfigDict, Field

from amistream.aws.buckets import keeps_versions
from amistream.aws.session import Aws
from amistream.bundles.listing import USD_PER_GIB_MONTH
from amistream.checks.preflight import Measurable, Note, check_measurable
from amistream.errors import StoreError
from amistream.jobs.search import AUTO
from amistream.jobs.tune import Tuner
from amistream.location import S3Location, parse_location
from amistream.request import BundleRequest
from amistream.settings import Settings, memory_ceiling
from amistream.units import duration_text, size_text
from amistream.values import GIB, MIB

SAMPLE_S, PROBE_S = 5.0, 6.0
"""Longest time of the sample, and of the probe of the link."""
FIRST, MOST = 8 * MIB, 64 * MIB
"""Sizes of the first sample, and of the one that counts: as much as its time allows."""
PROBE = 32 * MIB
"""Most bytes that the probe sends."""
USUAL_PRICE, USD_PER_PUT = 0.023, 0.005 / 1000
"""USD per GiB and month, and for one request, in most regions."""
FAST = "fast"
COMPRESSING, LIMIT = "reading and compressing", "--limit-upload"


class Forecast(BaseModel):
    """The plan of a job, as JSON. Sizes in bytes, rates in bytes per second; all but `image_size` are estimates."""

    model_config = ConfigDict(frozen=True)

    image_size: int
    read_size: int = Field(description="bytes that are read: without holes and free blocks")
    sent_size: int = Field(description="bytes that are sent, to all destinations together")
    pieces: int = Field(description="parts, or blocks of a snapshot, at each destination")
    requests: int = Field(description="requests that send data")
    seconds: float
    is_least: bool = Field(description="it takes longer than `seconds`, because the link was not measured")
    limited_by: str = Field(description="the slowest work, or '' if nothing was measured")
    local_rate: float | None = Field(description="bytes of the volume per second on this machine, without sending")
    link_rate: float | None = Field(description="bytes per second to the destination")
    sample_size: int = Field(description="bytes of the volume that were read for this")
    probe_size: int = Field(description="bytes that were put and deleted for this")
    memory: int = Field(description="most bytes of memory of the process")
    stored_in: str = Field(description="where it is stored, and for which region the price is")
    price: float | None = Field(description="list price in USD per GiB and month; null for a directory")
    cost: float | None = Field(description="USD a month for all that is stored")
    cost_of_requests: float | None = Field(description="USD once for the requests")
    notes: tuple[str, ...] = ()


async def forecast_bundle(request: BundleRequest, settings: Settings, note: Note) -> Forecast:
    """Estimate a bundle. Raises as the preflight does."""
    async with AsyncExitStack() as stack:
        aws = await stack.enter_async_context(Aws(settings))
        measurable = await check_measurable(request, settings, aws, lambda _: None, needs_store=False)
        stack.push_async_callback(measurable.close)
        tuner = Tuner(measurable, note, lambda _: None, SAMPLE_S + PROBE_S)
        local = await _sample(tuner, request.compress or settings.compress)
        link = await _probe(tuner, measurable)
        if link.sent and await _keeps_versions(request, settings, aws, measurable.region):
            stays = f"the bucket keeps versions: the {size_text(link.sent)} of the probe stay there as such"
            link = replace(link, notes=(*link.notes, stays))
    return _bundle_forecast(request, settings, measurable, local, link)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Local:
    """The speed of this machine: bytes of the volume per second, and stored bytes per byte of the volume."""

    rate: float | None
    ratio: float
    sampled: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Link:
    """The speed of the link, or the reason why it is not known."""

    rate: float | None = None
    sent: int = 0
    notes: tuple[str, ...] = ()


async def _sample(tuner: Tuner, compress: str) -> _Local:
    """Compress some of the volume: first little, then as much as a third of the time allows."""
    if not tuner.data:
        return _Local(rate=None, ratio=0.0, sampled=0)
    notes = ("--compress auto may send less than this estimate, which is that of fast",) if compress == AUTO else ()
    compress = FAST if compress == AUTO else compress
    try:
        async with asyncio.timeout(SAMPLE_S):
            found = await tuner.compress(compress, FIRST)
    except TimeoutError:
        slow = f"the volume is too slow for a sample of {duration_text(SAMPLE_S)}: taken as incompressible"
        return _Local(rate=None, ratio=1.0, sampled=0, notes=(*notes, slow))
    sampled = min(FIRST, tuner.data)
    more = min(MOST, int(found.rate * SAMPLE_S / 3), tuner.data)
    if more > FIRST:
        found = await tuner.compress(compress, more)
        sampled += more
    return _Local(rate=found.rate, ratio=found.ratio, sampled=sampled, notes=notes)


async def _probe(tuner: Tuner, measurable: Measurable) -> _Link:
    """Measure the link with the job's number of connections."""
    plan = measurable.plan
    if measurable.store is None:
        return _Link(notes=(f"the link was not measured: {measurable.reason}",))
    try:
        async with asyncio.timeout(PROBE_S):
            sent = await tuner.probe_link(plan.upload_concurrency, PROBE)
    except TimeoutError:
        return _Link(notes=(f"the link was not measured: it was too slow for a probe of {duration_text(PROBE_S)}",))
    except StoreError as error:
        return _Link(notes=(f"the link was not measured: {error.message}",))
    with suppress(TimeoutError):
        async with asyncio.timeout(PROBE_S):
            await tuner.sweep()
    return _Link(rate=tuner.speeds.upload_rate(plan.part_size, plan.upload_concurrency), sent=sent)


async def _keeps_versions(request: BundleRequest, settings: Settings, aws: Aws, region: str) -> bool:
    """The first destination keeps what is deleted."""
    location = parse_location(request.destinations[0])
    if not isinstance(location, S3Location):
        return False
    endpoint_url = (request.endpoint_url or settings.endpoint_url or "").rstrip("/")
    client = await aws.client("s3", region, endpoint_url)
    return await keeps_versions(client, location.bucket, settings.stall_timeout_s)


def _bundle_forecast(
    request: BundleRequest, settings: Settings, measurable: Measurable, local: _Local, link: _Link
) -> Forecast:
    plan = measurable.plan
    data = sum(extent.length for extent in measurable.used)
    places = len(request.destinations)
    stored = round(data * local.ratio)
    parts = max(1, -(-stored // plan.part_size))
    is_bucket = isinstance(parse_location(request.destinations[0]), S3Location)
    requests = places * (parts * _requests(plan.part_size, settings) + 1) if is_bucket else 0  # 1: the manifest
    price = USD_PER_GIB_MONTH.get(measurable.region, USUAL_PRICE) if is_bucket else None
    seconds, limited_by = longest(
        {
            COMPRESSING: data / local.rate if local.rate else 0.0,
            "upload": stored * places / link.rate if link.rate else 0.0,
            LIMIT: stored * places / measurable.limit_upload if measurable.limit_upload else 0.0,
        }
    )
    memory = memory_ceiling(
        workers=plan.workers,
        block_size=plan.block_size,
        part_size=plan.part_size,
        upload_concurrency=plan.upload_concurrency,
    )
    return Forecast(
        image_size=measurable.volume.size,
        read_size=data,
        sent_size=stored * places,
        pieces=parts,
        requests=requests,
        seconds=seconds,
        is_least=link.rate is None,
        limited_by=limited_by,
        local_rate=local.rate,
        link_rate=link.rate,
        sample_size=local.sampled,
        probe_size=link.sent,
        memory=memory + measurable.reading_memory,
        stored_in=_stored_in(measurable.region) if is_bucket else "a directory",
        price=price,
        cost=None if price is None else stored * places / GIB * price,
        cost_of_requests=None if price is None else requests * USD_PER_PUT,
        notes=(*local.notes, *link.notes),
    )


def _stored_in(region: str) -> str:
    return f"S3 in {region}" if region else "S3"


def longest(times: dict[str, float]) -> tuple[float, str]:
    """The longest of some times, and its name; ('' for none)."""
    name = max(times, key=lambda name: times[name])
    return times[name], name if times[name] else ""


def _requests(part_size: int, settings: Settings) -> int:
    """Requests for one part: in chunks it is created and completed, too."""
    if part_size <= settings.multipart_threshold:
        return 1
    return -(-part_size // int(settings.multipart_chunk)) + 2
