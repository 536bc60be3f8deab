"""Finds the settings that bundle fastest from this machine to a destination: part size, parts in flight, compression.

Successive halving: all candidates are tried on a small sample of the volume, the better quarter on a larger one,
and the best of those on the whole sample. That reads and sends a quarter of what trying every candidate in full
would. A trial is a real pass of the pipeline into the real store, under names of its own, which are removed again.

The sample is slices from all over the volume's data, so that it compresses like the whole.
"""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from time import perf_counter

from amistream.aws.session import Aws
from amistream.checks.preflight import Measurable, Note, check_measurable
from amistream.errors import RefusedError
from amistream.flow.undo import Undo
from amistream.keys import BundleKey
from amistream.pipeline import Pipeline
from amistream.request import JobRequest
from amistream.settings import Settings, memory_ceiling
from amistream.source.extents import ALIGNMENT
from amistream.stages.level import level_number
from amistream.values import MIB, Extent

DEFAULT_MEMORY_LIMIT = 512 * MIB
"""Default limit: candidates with a higher memory ceiling are not tried."""

PART_SIZES = (5 * MIB, 10 * MIB, 20 * MIB, 40 * MIB)
CONCURRENCIES = (2, 4, 8, 16)
COMPRESSIONS = ("fast", "balanced", "small", "auto")

ROUNDS = ((8, 1), (4, 4), (1, 4))
"""Per round: the sample is divided by the first figure, after the candidates were divided by the second. With 64
candidates: 64/8 + 16/4 + 4/1 = 16 whole samples, a quarter of 64."""

SLICE = 8 * MIB
_AS_GOOD = 0.98


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Candidate:
    """One setting of the three knobs; sizes in bytes."""

    part_size: int
    upload_concurrency: int
    compress: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """The measurement of one pass with a candidate."""

    candidate: Candidate
    sample: int
    seconds: float
    stored: int

    @property
    def rate(self) -> float:
        """Bytes of the volume per second."""
        return self.sample / self.seconds


WHOLE_SAMPLES = 16
"""Cost of all rounds together, in whole samples, with every candidate in the field."""

FIRST_TRY = 64 * MIB
"""Sample of the first pass, from whose speed follows how large a sample the time budget allows."""

Try = Callable[[Candidate, int], Awaitable[Trial]]


def candidates(*, workers: int, block_size: int, memory_limit: int) -> list[Candidate]:
    """Every combination whose memory ceiling is within the limit (bytes)."""
    return [
        Candidate(part_size=part_size, upload_concurrency=concurrency, compress=compress)
        for part_size, concurrency, compress in itertools.product(PART_SIZES, CONCURRENCIES, COMPRESSIONS)
        if memory_ceiling(workers=workers, block_size=block_size, part_size=part_size, upload_concurrency=concurrency)
        <= memory_limit
    ]


async def successive_halving(field: Sequence[Candidate], sample: int, attempt: Try) -> list[Trial]:
    """Run the rounds; returns every trial in the order made. The last round's are on the whole `sample` (bytes)."""
    trials: list[Trial] = []
    running = list(field)
    for divided_by, keep_one_of in ROUNDS:
        running = running[: max(1, -(-len(running) // keep_one_of))]
        # A sample of less than several parts would measure nothing.
        made = [await attempt(candidate, max(sample // divided_by, min(sample, FIRST_TRY))) for candidate in running]
        trials += made
        running = [trial.candidate for trial in sorted(made, key=lambda trial: -trial.rate)]
    return trials


def recommend(trials: Sequence[Trial]) -> Trial:
    """The best of the last round; among those as good (2 %), the one that holds the fewest bytes in flight."""
    last = [trial for trial in trials if trial.sample == max(each.sample for each in trials)]
    best = max(trial.rate for trial in last)
    return min(
        (trial for trial in last if trial.rate >= best * _AS_GOOD),
        key=lambda trial: (trial.candidate.part_size * trial.candidate.upload_concurrency, -trial.rate),
    )


def sample_extents(extents: Sequence[Extent], wanted: int) -> tuple[Extent, ...]:
    """About `wanted` bytes of the data in `extents`, in slices of at most `SLICE` bytes evenly over all of it."""
    data = sum(extent.length for extent in extents)
    if wanted >= data:
        return tuple(extents)
    step = data / max(1, wanted // SLICE)
    length = min(SLICE, wanted) // ALIGNMENT * ALIGNMENT
    chosen: list[Extent] = []
    passed, due = 0, 0.0
    for extent in extents:
        while due < passed + extent.length:
            start = extent.offset + (int(due) - passed) // ALIGNMENT * ALIGNMENT
            end = min(start + length, extent.end)
            if end > start:
                chosen.append(Extent(offset=start, length=end - start))
            due += step
        passed += extent.length
    return tuple(chosen)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """Every trial in the order made, and the one to go by."""

    trials: tuple[Trial, ...]
    recommended: Trial


async def tune(
    request: JobRequest, settings: Settings, *, budget_s: float, note: Note, report: Callable[[Trial], None]
) -> Tuning:
    """Find the best settings for the request's source and destination in about `budget_s` seconds.

    `report` receives each trial. Raises as the preflight and the pipeline do; nothing is left at the destination.
    """
    async with AsyncExitStack() as stack:
        aws = await stack.enter_async_context(Aws(settings))
        measurable = await check_measurable(request, settings, aws, note)
        stack.push_async_callback(measurable.close)
        stack.push_async_callback(measurable.store.close)
        tuner = Tuner(measurable)

        async def attempt(candidate: Candidate, sample: int) -> Trial:
            trial = await tuner.attempt(candidate, sample)
            report(trial)
            return trial

        plan = measurable.plan
        first = await tuner.attempt(
            Candidate(part_size=plan.part_size, upload_concurrency=plan.upload_concurrency, compress="fast"), FIRST_TRY
        )
        sample = min(tuner.data, max(FIRST_TRY, int(first.rate * budget_s / WHOLE_SAMPLES)))
        limit = request.memory_limit or settings.memory_limit or DEFAULT_MEMORY_LIMIT
        field = candidates(workers=plan.workers, block_size=plan.block_size, memory_limit=limit)
        if not field:
            raise RefusedError(
                "memory_limit.too_small",
                f"cannot tune within {limit / MIB:.0f} MiB: no candidate fits",
                hint="give a larger --memory-limit",
                field="memory_limit",
            )
        trials = await successive_halving(field, sample, attempt)
    return Tuning(trials=tuple(trials), recommended=recommend(trials))


class Tuner:
    """Tries candidates on one volume and store, which the caller has checked and closes."""

    def __init__(self, measurable: Measurable) -> None:
        self._measurable = measurable
        self._names = f"amistream-tune-{secrets.token_hex(4)}"
        self._count = 0

    @property
    def data(self) -> int:
        """Bytes of data in the volume: the largest sample there is."""
        return sum(extent.length for extent in self._measurable.extents)

    async def attempt(self, candidate: Candidate, sample: int) -> Trial:
        """One pass over `sample` bytes; its parts are removed, whatever happens."""
        self._count += 1
        extents = sample_extents(self._measurable.extents, sample)
        plan = replace(
            self._measurable.plan,
            prefix=f"{self._names}-{self._count}",
            part_size=candidate.part_size,
            upload_concurrency=candidate.upload_concurrency,
            level=level_number(candidate.compress),
            extents=extents,
        )
        undo = Undo()
        try:
            started = perf_counter()
            measured = await Pipeline(
                plan, self._measurable.volume, self._measurable.store, BundleKey.generate(), undo
            ).run()
            seconds = perf_counter() - started
        finally:
            await undo.run()
        return Trial(
            candidate=candidate,
            sample=sum(extent.length for extent in extents),
            seconds=seconds,
            stored=measured.split.bundled_size,
        )
