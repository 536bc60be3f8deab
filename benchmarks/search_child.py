"""Searches for the best settings as `amistream tune` does, then tries them all: `python -m benchmarks.search_child`.

Reads a `SearchSpec` as JSON from standard input, writes a `Search`. One pass goes before everything, so that what is
loaded and connected once is not counted.
"""

from __future__ import annotations

import sys
from contextlib import AsyncExitStack
from time import perf_counter

import uvloop

from amistream import log
from amistream.aws.session import Aws
from amistream.checks.preflight import check_measurable
from amistream.jobs.tune import FIRST_TRY, Candidate, Trial, Tuner, candidates, recommend, successive_halving
from amistream.process import settle_memory
from amistream.request import parse_request
from amistream.settings import LogFormat, Settings
from amistream.values import GIB, MIB
from benchmarks.jobs import Pass, Passes, Search, SearchSpec
from benchmarks.sink_process import BUCKET

MEMORY_LIMIT = 4 * GIB
"""Memory limit that admits every candidate."""


async def search(spec: SearchSpec) -> Search:
    """The search, and the whole grid after it, over the same connections."""
    settings = Settings(**spec.settings)
    request = parse_request(
        {
            "source": spec.source,
            "destinations": [f"s3://{BUCKET}/search"],
            "endpoint_url": spec.endpoint_url,
            "register_image": False,
        }
    )
    async with AsyncExitStack() as stack:
        aws = await stack.enter_async_context(Aws(settings))
        measurable = await check_measurable(request, settings, aws, lambda _: None)
        stack.push_async_callback(measurable.close)
        stack.push_async_callback(measurable.store.close)
        tuner = Tuner(measurable)
        plan = measurable.plan
        field = candidates(workers=plan.workers, block_size=plan.block_size, memory_limit=MEMORY_LIMIT)
        await tuner.attempt(field[0], min(spec.sample, FIRST_TRY))
        started = perf_counter()
        trials = await successive_halving(field, spec.sample, tuner.attempt)
        halving = _passes(trials, started)
        started = perf_counter()
        grid = _passes([await tuner.attempt(candidate, spec.sample) for candidate in field], started)
    return Search(halving=halving, recommended=_pass(recommend(trials)), grid=grid)


def _passes(trials: list[Trial], started: float) -> Passes:
    return Passes(trials=tuple(_pass(trial) for trial in trials), wall_s=perf_counter() - started)


def _pass(trial: Trial) -> Pass:
    return Pass(candidate=_name(trial.candidate), sample=trial.sample, bytes_per_s=trial.rate)


def _name(candidate: Candidate) -> str:
    return f"{candidate.compress} {candidate.part_size // MIB} MiB x {candidate.upload_concurrency}"


def main() -> None:
    settle_memory()
    spec = SearchSpec.model_validate_json(sys.stdin.read())
    log.configure("error", LogFormat.TEXT)
    print(uvloop.run(search(spec)).model_dump_json())


if __name__ == "__main__":
    main()
