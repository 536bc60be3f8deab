"""Unpacks a bundle as `verify --deep` and `unbundle` do, and reports: `python -m benchmarks.unpack_child`.

Reads an `UnpackSpec` as JSON from standard input, writes `Figures`. A shallow look at the bundle goes before, so that
what is loaded once is not counted.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from time import perf_counter, process_time

import uvloop

from amistream import log
from amistream.aws.session import Aws
from amistream.bundles.meter import Meter
from amistream.bundles.session import BundleSession
from amistream.events import State
from amistream.jobs.engine import Engine
from amistream.jobs.job import Job
from amistream.jobs.journal import Journal
from amistream.process import settle_memory
from amistream.request import parse_bundle_request
from amistream.settings import LogFormat, Settings
from amistream.values import manifest_name
from benchmarks.child import ACCOUNT, forget_peak, peak_rss
from benchmarks.jobs import Figures, UnpackSpec
from benchmarks.timing import BenchmarkError


async def unpack(spec: UnpackSpec) -> Figures:
    """One pass over the bundle."""
    settings = Settings(**spec.settings)
    manifest = Path(spec.bundle) / manifest_name(settings.prefix)
    if not manifest.exists():
        await _bundle(spec, settings)
    async with Aws(settings) as aws:
        session, meter = BundleSession(settings, aws, lambda _: None), Meter()
        await session.verify(str(manifest), meter, deep=False)
        forget_peak()
        cpu, wall = process_time(), perf_counter()
        if spec.image is None:
            report = await session.verify(str(manifest), meter, deep=True)
            if report.differences:
                raise BenchmarkError(report.differences[0].message)
        else:
            await session.unbundle(str(manifest), spec.image, meter)
        wall, cpu = perf_counter() - wall, process_time() - cpu
    size, bundled_size = await asyncio.to_thread(_sizes, spec)
    return Figures(
        size=size,
        bundled_size=bundled_size,
        wall_s=wall,
        cpu_s=cpu,
        peak_rss=peak_rss(),
        bottleneck=None,
    )


def _sizes(spec: UnpackSpec) -> tuple[int, int]:
    return Path(spec.source).stat().st_size, sum(path.stat().st_size for path in Path(spec.bundle).iterdir())


async def _bundle(spec: UnpackSpec, settings: Settings) -> None:
    request = parse_bundle_request(
        {
            "source": spec.source,
            "destinations": [spec.bundle],
            "account": ACCOUNT,
            "ec2_certificate": spec.ec2_certificate,
        }
    )
    async with Journal(settings.state_dir, by_itself=False) as journal, Aws(settings) as aws:
        engine = Engine(settings, journal, aws)
        job = Job(request)
        await engine.enter(job)
        await engine.run(job)
    if job.state is not State.DONE:
        raise BenchmarkError(f"the job is {job.state}: {job.error.message if job.error else ''}")


def main() -> None:
    settle_memory()
    spec = UnpackSpec.model_validate_json(sys.stdin.read())
    log.configure("error", LogFormat.TEXT)
    print(uvloop.run(unpack(spec)).model_dump_json())


if __name__ == "__main__":
    main()
