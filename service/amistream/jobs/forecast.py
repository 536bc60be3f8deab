"""Estimates a job before it begins: what it reads and sends, how long it takes, its memory, and its cost a month.

Nothing is kept: a sample of the volume is compressed as the job would, and a few objects are put to the destination and
deleted again, which shows the speed of the link.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, replace

from pydantic import BaseModel, ConfigDict, Field

from amistream.aws.buckets import keeps_versions
from amistream.aws.session import Aws
from amistream.bundles.listing import USD_PER_GIB_MONTH
from amistream.checks.preflight import Measurable, MeasurablePlace, Note, check_measurable
from amistream.errors import StoreError
from amistream.flow.gather import task_group
from amistream.jobs.search import AUTO
from amistream.jobs.tune import Tuner
from amistream.location import S3Location
from amistream.plan import Plan
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


class PlaceForecast(BaseModel):
    """One destination of a plan."""

    model_config = ConfigDict(frozen=True)

    destination: str
    stored_in: str = Field(description="where it is stored, and for which region the price is")
    link_rate: float | None = Field(description="bytes per second there, while all destinations are sent to")
    price: float | None = Field(description="list price in USD per GiB and month; null for a directory")
    cost: float | None = Field(description="USD a month for all that is stored there")


class Forecast(BaseModel):
    """The plan of a job, as JSON. Sizes in bytes, rates in bytes per second; all but `image_size` are estimates."""

    model_config = ConfigDict(frozen=True)

    image_size: int
    read_size: int = Field(description="bytes that are read: without holes and free blocks")
    sent_size: int = Field(description="bytes that are sent, to all destinations together")
    is_most: bool = Field(False, description="less may be sent and stored: blocks of zeros are not known beforehand")
    pieces: int = Field(description="parts, or blocks of a snapshot, at each destination")
    requests: int = Field(description="requests that send data")
    seconds: float
    is_least: bool = Field(description="it takes longer than `seconds`, because the link was not measured")
    limited_by: str = Field(description="the slowest work, or '' if nothing was measured")
    local_rate: float | None = Field(description="bytes of the source per second on this machine, without sending")
    link_rate: float | None = Field(description="bytes per second to the slowest destination")
    sample_size: int = Field(description="bytes of the source that were read for this")
    probe_size: int = Field(description="bytes that were put and deleted for this")
    memory: int = Field(description="most bytes of memory of the process")
    stored_in: str = Field(description="where it is stored, and for which region the price is")
    price: float | None = Field(description="list price in USD per GiB and month; null if there is none, or several")
    cost: float | None = Field(description="USD a month for all that is stored")
    cost_of_requests: float | None = Field(description="USD once for the requests")
    places: tuple[PlaceForecast, ...] = Field((), description="each destination of a bundle")
    notes: tuple[str, ...] = ()


async def forecast_bundle(request: BundleRequest, settings: Settings, note: Note) -> Forecast:
    """Estimate a bundle. Raises as the preflight does."""
    async with AsyncExitStack() as stack:
        aws = await stack.enter_async_context(Aws(settings))
        measurable = await check_measurable(request, settings, aws, lambda _: None, needs_store=False)
        stack.push_async_callback(measurable.close)
        tuners = [
            Tuner(measurable, place, note, lambda _: None, budget_s=SAMPLE_S + PROBE_S) for place in measurable.places
        ]
        local = await _sample(tuners[0], request.compress or settings.compress)
        endpoint_url = (request.endpoint_url or settings.endpoint_url or "").rstrip("/")

        async def probe(tuner: Tuner, place: MeasurablePlace) -> _Link:
            link = await _probe(tuner, measurable.plan, place, PROBE // len(tuners))
            if link.sent and await _keeps_versions(place, settings, aws, endpoint_url):
                stays = f"the bucket keeps versions: the {size_text(link.sent)} of the probe stay there as such"
                link = replace(link, notes=(*link.notes, stays))
            return link

        # At the same time, as the job sends: destinations behind one link share it.
        async with task_group() as group:
            probes = [group.create_task(probe(*each)) for each in zip(tuners, measurable.places, strict=True)]
    return _bundle_forecast(settings, measurable, local, [each.result() for each in probes])


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


async def _probe(tuner: Tuner, plan: Plan, place: MeasurablePlace, most: int) -> _Link:
    """Measure the link with the job's number of connections."""
    if place.store is None:
        return _Link(notes=(f"the link was not measured: {place.reason}",))
    try:
        async with asyncio.timeout(PROBE_S):
            sent = await tuner.probe_link(plan.upload_concurrency, most)
    except TimeoutError:
        return _Link(notes=(f"the link was not measured: it was too slow for a probe of {duration_text(PROBE_S)}",))
    except StoreError as error:
        return _Link(notes=(f"the link was not measured: {error.message}",))
    with suppress(TimeoutError):
        async with asyncio.timeout(PROBE_S):
            await tuner.sweep()
    return _Link(rate=tuner.speeds.upload_rate(plan.part_size, plan.upload_concurrency), sent=sent)


async def _keeps_versions(place: MeasurablePlace, settings: Settings, aws: Aws, endpoint_url: str) -> bool:
    """The destination keeps what is deleted."""
    if not isinstance(place.location, S3Location):
        return False
    client = await aws.client("s3", place.region, endpoint_url)
    return await keeps_versions(client, place.location.bucket, settings.stall_timeout_s)


def _bundle_forecast(settings: Settings, measurable: Measurable, local: _Local, links: Sequence[_Link]) -> Forecast:
    plan = measurable.plan
    data = sum(extent.length for extent in measurable.used)
    stored = round(data * local.ratio)
    parts = max(1, -(-stored // plan.part_size))
    places = [_place_forecast(place, link, stored) for place, link in zip(measurable.places, links, strict=True)]
    buckets = sum(each.price is not None for each in places)
    requests = buckets * (parts * _requests(plan.part_size, settings) + 1)  # 1: the manifest
    rates = [link.rate for link in links if link.rate]
    limits = [place.limit_upload for place in measurable.places if place.limit_upload]
    # Parts go to all destinations at once, and the slowest one sets the pace.
    seconds, limited_by = longest(
        {
            COMPRESSING: data / local.rate if local.rate else 0.0,
            "upload": stored / min(rates) if rates else 0.0,
            LIMIT: stored / min(limits) if limits else 0.0,
        }
    )
    memory = memory_ceiling(
        workers=plan.workers,
        block_size=plan.block_size,
        part_size=plan.part_size,
        upload_concurrency=plan.upload_concurrency,
    )
    prices = {each.price for each in places}
    several = len(places) > 1
    return Forecast(
        image_size=measurable.volume.size,
        read_size=data,
        sent_size=stored * len(places),
        pieces=parts,
        requests=requests,
        seconds=seconds,
        is_least=len(rates) < len(links),
        limited_by=limited_by,
        local_rate=local.rate,
        link_rate=min(rates) if len(rates) == len(links) else None,
        sample_size=local.sampled,
        probe_size=sum(link.sent for link in links),
        memory=memory + measurable.reading_memory,
        stored_in=" and ".join(dict.fromkeys(each.stored_in for each in places)),
        price=prices.pop() if len(prices) == 1 else None,
        cost=sum(each.cost or 0.0 for each in places) if buckets else None,
        cost_of_requests=requests * USD_PER_PUT if buckets else None,
        places=tuple(places),
        notes=(
            *local.notes,
            *(
                f"{each.destination}: {note}" if several else note
                for each, link in zip(places, links, strict=True)
                for note in link.notes
            ),
        ),
    )


def _place_forecast(place: MeasurablePlace, link: _Link, stored: int) -> PlaceForecast:
    is_bucket = isinstance(place.location, S3Location)
    price = USD_PER_GIB_MONTH.get(place.region, USUAL_PRICE) if is_bucket else None
    return PlaceForecast(
        destination=str(place.location),
        stored_in=_stored_in(place.region) if is_bucket else "a directory",
        link_rate=link.rate,
        price=price,
        cost=None if price is None else stored / GIB * price,
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
