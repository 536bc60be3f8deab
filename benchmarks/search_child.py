"""Tries every candidate of `amistream tune`, then lets it search: `python -m benchmarks.search_child`.

Reads a `SearchSpec` as JSON from standard input, writes a `Search`.
"""

from __future__ import annotations

import random
import sys
from contextlib import AsyncExitStack
from time import perf_counter
from typing import Any

import uvloop

from amistream import log
from amistream.aws.session import Aws
from amistream.checks.preflight import check_measurable
from amistream.jobs.search import Candidate, candidates
from amistream.jobs.tune import DEFAULT_MEMORY_LIMIT, Tuner, tune
from amistream.process import settle_memory
from amistream.request import BundleRequest, parse_bundle_request
from amistream.settings import LogFormat, Settings
from amistream.values import MIB
from benchmarks.inputs import SEED
from benchmarks.jobs import LARGEST, Search, SearchSpec, Tuned
from benchmarks.sink_process import BUCKET, Sink


async def search(spec: SearchSpec) -> Search:
    """The grid, then the searches, each from another setting in force."""
    settings = Settings(**spec.settings)
    request = parse_bundle_request(
        {
            "source": spec.source,
            "destinations": [f"s3://{BUCKET}/search"],
            "endpoint_url": spec.endpoint_url,
            "register_image": False,
        }
    )
    started = perf_counter()
    grid = await _grid(request, settings)
    grid_wall_s = perf_counter() - started
    in_force = random.Random(SEED).choices(list(grid), k=spec.runs)
    return Search(
        grid={_name(candidate): rate for candidate, rate in grid.items()},
        grid_wall_s=grid_wall_s,
        tuned=tuple([await _tuned(spec, request, each) for each in in_force]),
    )


async def _grid(request: BundleRequest, settings: Settings) -> dict[Candidate, float]:
    """The speed of each candidate in a pass over the whole volume."""
    async with AsyncExitStack() as stack:
        aws = await stack.enter_async_context(Aws(settings))
        measurable = await check_measurable(request, settings, aws, lambda _: None)
        stack.push_async_callback(measurable.close)
        tuner = Tuner(measurable, measurable.places[0], lambda _: None, lambda _: None, budget_s=0)
        plan = measurable.plan
        field = candidates(workers=plan.workers, block_size=plan.block_size, memory_limit=DEFAULT_MEMORY_LIMIT)
        return {each: (await tuner.attempt(each, LARGEST)).rate for each in field}


async def _tuned(spec: SearchSpec, request: BundleRequest, in_force: Candidate) -> Tuned:
    sink = Sink(spec.endpoint_url)
    chosen: dict[str, Any] = {
        "part_size": in_force.part_size,
        "upload_concurrency": in_force.upload_concurrency,
        "compress": in_force.compress,
    }
    before = sink.stats()["object_bytes"]
    started = perf_counter()
    found = await tune(
        request,
        Settings(**spec.settings, **chosen),
        budget_s=spec.budget_s,
        note=lambda _: None,
        report=lambda line: print(line, file=sys.stderr, flush=True),
    )
    return Tuned(
        in_force=_name(in_force),
        recommended=_name(found.recommended),
        wall_s=perf_counter() - started,
        sent=sink.stats()["object_bytes"] - before,
    )


def _name(candidate: Candidate) -> str:
    return f"{candidate.compress} {candidate.part_size // MIB} MiB x {candidate.upload_concurrency}"


def main() -> None:
    settle_memory()
    spec = SearchSpec.model_validate_json(sys.stdin.read())
    log.configure("error", LogFormat.TEXT)
    print(uvloop.run(search(spec)).model_dump_json())


if __name__ == "__main__":
    main()
