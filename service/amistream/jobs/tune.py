"""Finds the settings that bundle fastest from this machine to a destination: part size, parts in flight, compression.

Three rounds, within a time that the user gives:

1. Each compression, over one sample of the volume, without the network.
2. The link with a few numbers of connections, without the volume.
3. Real passes with the setting in force and with those that must be fastest by these figures (`search`).

The sample is slices from all over the volume's data, so that it compresses like the whole. All that is stored has names
of its own and is removed again.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import secrets
import statistics
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from time import perf_counter

from amistream.aws.session import Aws
from amistream.checks.preflight import Measurable, MeasurablePlace, Note, check_measurable
from amistream.errors import AmistreamError, RefusedError, StoreError
from amistream.flow.gather import task_group, try_each
from amistream.flow.undo import Progress, undo_despite_cancel
from amistream.jobs.search import (
    AUTO,
    CONCURRENCIES,
    LEVELS,
    Candidate,
    LevelSpeed,
    LinkSpeed,
    Speeds,
    Trial,
    candidates,
    next_to_try,
    ranked,
    recommend,
    steady_rate,
)
from amistream.keys import BundleKey
from amistream.pipeline import Pipeline
from amistream.plan import Plan
from amistream.ports.store import OnBytes, PartStore, Store, sha1_of, whole_checksum
from amistream.request import BundleRequest
from amistream.settings import Settings
from amistream.source.extents import ALIGNMENT, join_extents
from amistream.stages.level import level_number
from amistream.stages.upload import MemoryLedger
from amistream.units import duration_text, rate_text, size_text
from amistream.values import ABANDONED, KIB, MIB, PROBES, Extent, is_probe, part_name, probe_object, probe_of

DEFAULT_MEMORY_LIMIT = 512 * MIB
"""Default limit: candidates with a higher memory ceiling are not tried."""
LEVELS_SHARE, LINK_SHARE = 0.15, 0.25
"""Shares of the time for the first two rounds; passes take the rest."""
OVERTIME_SHARE = 0.1
"""A measurement that takes longer than expected is cut off when so much more than the time has passed."""
SLICE = 2 * MIB
FIRST_SAMPLE, LEAST_SAMPLE = 32 * MIB, 8 * MIB
_SMALL_IS_SLOWER = 6
"""Factor from the fastest to the slowest compression. Measured; only the time of the round depends on it."""
PIECES = (256 * KIB, 8 * MIB)
"""Smallest and largest object of the second round."""
_PIECE_S = 0.5
"""Aim for the time of one object."""
PARTS_EACH = 2
"""Parts that each connection sends in a pass: the least that shows its speed (`search.steady_rate`)."""
ENOUGH_IN_VAIN = 2
"""Numbers of connections in a row that bring no more speed, after which no larger one is measured."""
REMOVAL_STALL_S = 120.0
"""The rest is left when nothing was removed for so long. Guess."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """All that was measured, every candidate with its speed, best first, and the one to go by."""

    speeds: Speeds
    ranking: tuple[tuple[Candidate, float], ...]
    in_force: Candidate
    recommended: Candidate


async def tune(
    request: BundleRequest, settings: Settings, *, budget_s: float, note: Note, report: Callable[[str], None]
) -> Tuning:
    """Find the best settings for the request's source and destination in `budget_s` seconds.

    `report` receives each round and measurement as a line. Raises as the preflight and the pipeline do; nothing is left
    at the destination but what `note` names.
    """
    async with AsyncExitStack() as stack:
        aws = await stack.enter_async_context(Aws(settings))
        measurable = await check_measurable(request, settings, aws, note)
        stack.push_async_callback(measurable.close)
        plan = measurable.plan
        limit = request.memory_limit or settings.memory_limit or DEFAULT_MEMORY_LIMIT
        grid = candidates(workers=plan.workers, block_size=plan.block_size, memory_limit=limit)
        if not grid:
            raise RefusedError(
                "memory_limit.too_small",
                f"cannot tune within {limit / MIB:.0f} MiB: no candidate fits",
                hint="give a larger --memory-limit",
                field="memory_limit",
            )
        in_force = Candidate(
            part_size=plan.part_size,
            upload_concurrency=plan.upload_concurrency,
            compress=request.compress or settings.compress,
        )
        if in_force not in grid:
            grid.append(in_force)
        tuner = Tuner(measurable, measurable.places[0], note, report, budget_s=budget_s)
        await tuner.sweep()
        try:
            await tuner.measure_levels(list(dict.fromkeys((*LEVELS, in_force.compress))))
            await tuner.measure_links(sorted({*CONCURRENCIES, in_force.upload_concurrency}))
            await tuner.confirm(in_force, grid)
        except TimeoutError:
            report("  cut off: the time is used up")
    speeds = tuner.speeds
    rates = {each: speeds.rate(each) for each in grid}
    recommended = recommend(in_force, grid, speeds)
    others = sorted((each for each in grid if each != recommended), key=lambda each: -rates[each])
    return Tuning(
        speeds=speeds,
        ranking=tuple((each, rates[each]) for each in (recommended, *others)),
        in_force=in_force,
        recommended=recommended,
    )


class Tuner:
    """Measures one volume and one of its destinations, which the caller has checked and closes."""

    def __init__(
        self,
        measurable: Measurable,
        place: MeasurablePlace,
        note: Note,
        report: Callable[[str], None],
        *,
        budget_s: float,
    ) -> None:
        """The time runs from now on."""
        self._measurable = measurable
        self._place = place
        self._note = note
        self._report = report
        self._until = perf_counter() + budget_s
        self._budget_s = budget_s
        self._token = secrets.token_hex(4)
        self._count = 0
        self._sent: dict[str, tuple[int, str]] = {}
        """Size and checksum of what was sent, by name."""
        self._extents = join_extents(measurable.used, measurable.volume.size)
        self.data = sum(extent.length for extent in self._extents)
        """Bytes to read."""
        self.speeds = Speeds()

    @property
    def _store(self) -> Store:
        store = self._place.store
        assert store is not None  # noqa: S101 - for the type checker: a caller without a store sends nothing
        return store

    @property
    def _left_s(self) -> float:
        return self._until - perf_counter()

    async def sweep(self) -> None:
        """Remove objects of probes that were killed long ago. What fails is a notice: measuring goes on."""
        try:
            removed = await self._store.sweep(PROBES, is_probe, made_before=datetime.now(UTC) - ABANDONED)
        except StoreError as error:
            self._note(f"could not look for objects of earlier measurements: {error.message}")
            return
        if removed:
            self._note(f"removed {removed} object{'s' * (removed != 1)} that earlier measurements had left")

    def _cut_off(self) -> asyncio.Timeout:
        """Bounds every measurement but the first of the link: without that nothing is known."""
        return asyncio.timeout(self._left_s + self._budget_s * OVERTIME_SHARE if self.speeds.links else None)

    async def measure_levels(self, names: Sequence[str]) -> None:
        """Compress and encrypt a sample at each level, and send nothing."""
        names = [name for name in names if name != AUTO]
        time_s = self._budget_s * LEVELS_SHARE
        self._announce(1, f"{len(names)} compressions, sends nothing", time_s)
        fastest = await self.compress(names[0], min(FIRST_SAMPLE, self.data))
        # The fastest one takes part of the time that the slowest one takes, and the others lie between.
        sample = int(fastest.rate * time_s / (2 * _SMALL_IS_SLOWER))
        for name in names:
            speed = await self.compress(name, max(LEAST_SAMPLE, sample))
            self.speeds.levels[name] = speed
            self._report(f"  {name}: compresses {rate_text(speed.rate)} to {speed.ratio:.0%}")

    async def compress(self, name: str, sample: int) -> LevelSpeed:
        """Compress and encrypt so much of the volume."""
        plan = self._plan(sample, level=level_number(name))
        started = perf_counter()
        measured = await self._pass(plan, _Nowhere())
        size = sum(extent.length for extent in plan.extents or ())
        return LevelSpeed(rate=size / (perf_counter() - started), ratio=measured / size)

    async def measure_links(self, concurrencies: Sequence[int]) -> None:
        """Send pieces of noise over a few numbers of connections, until more of them bring nothing."""
        time_s = min(self._budget_s * LINK_SHARE, self._left_s)
        each_s = time_s / (len(concurrencies) + 1)
        self._announce(2, f"up to {len(concurrencies)} numbers of connections, sends what the link takes", time_s)
        noise = memoryview(os.urandom(PIECES[1]))
        until = perf_counter() + time_s
        try:
            await self._measure_delay(noise)
            found = await self._send(noise[: PIECES[0]], concurrencies[0], 0.0)
            for concurrency in concurrencies:
                piece = self._fitting(found, concurrency)
                async with self._cut_off():
                    found = await self._send(noise[:piece], concurrency, min(each_s, until - perf_counter()))
                self.speeds.links[concurrency] = found
                self._report(f"  {concurrency} connections: {rate_text(found.rate)}")
                if self.speeds.in_vain() == ENOUGH_IN_VAIN or perf_counter() > until:
                    break
        finally:
            await self._remove()

    async def probe_link(self, concurrency: int, most: int) -> int:
        """Send a piece over each connection, `most` bytes together, and remove all. Returns how many were sent."""
        noise = memoryview(os.urandom(PIECES[1]))
        try:
            await self._measure_delay(noise)
            found = await self._send(noise[: PIECES[0]], concurrency, 0.0)
            piece = min(self._fitting(found, concurrency), most // concurrency)
            self.speeds.links[concurrency] = await self._send(noise[:piece], concurrency, 0.0)
            return sum(size for size, _ in self._sent.values())
        finally:
            await self._remove()

    async def _measure_delay(self, noise: memoryview) -> None:
        # The first one makes the connection.
        delays = [KIB / (await self._send(noise[:KIB], 1, 0.0)).rate for _ in range(4)]
        self.speeds.delay_s = min(delays[1:])

    def _fitting(self, found: LinkSpeed, concurrency: int) -> int:
        """The size of a piece: most of its time must be its sending, because `Speeds` takes the delay off it."""
        sending_s = max(PIECES[0] / 1e9, found.piece * concurrency / found.rate - self.speeds.delay_s)
        fitting = found.piece / sending_s * max(_PIECE_S, 6 * self.speeds.delay_s)
        return min(max(int(fitting) // KIB * KIB, PIECES[0]), PIECES[1])

    async def _send(self, piece: memoryview, concurrency: int, time_s: float) -> LinkSpeed:
        """Send the piece again and again over each connection for so long, at least twice if there is time at all."""
        sha1 = sha1_of(piece)
        until = perf_counter() + time_s
        store = self._store
        moments: list[list[float]] = [[] for _ in range(concurrency)]

        async def send(sent: list[float]) -> None:
            sent.append(perf_counter())
            while len(sent) == 1 or perf_counter() < until:
                self._count += 1
                name = self._name()
                self._sent[name] = len(piece), whole_checksum(sha1)
                await store.put(name, piece, sha1, lambda _: None)
                sent.append(perf_counter())

        async with task_group() as group:
            for sent in moments:
                group.create_task(send(sent))
        # The first piece opens a connection, if it is not the only one.
        steady = [sent[1:] if len(sent[1:]) > 1 else sent for sent in moments]
        rate = sum((len(sent) - 1) * len(piece) / (sent[-1] - sent[0]) for sent in steady)
        times = [after - before for sent in steady for before, after in itertools.pairwise(sent)]
        error = statistics.stdev(times) / statistics.mean(times) / len(times) ** 0.5 if len(times) > 1 else 0.0
        return LinkSpeed(rate=rate, piece=len(piece), spread=error)

    async def confirm(self, in_force: Candidate, grid: Sequence[Candidate]) -> None:
        """Make passes with the setting in force and its challengers in turn, while there is time."""
        best = ranked(grid, {each: self.speeds.computed(each) for each in grid})[0]
        coming = [each for each in dict.fromkeys((in_force, best)) if self._needs_s(each) < self._left_s]
        to_send = sum(self._sample(each) * self.speeds.ratio(each) for each in coming)
        self._announce(3, f"{len(coming)} or more passes, sends {size_text(int(to_send))} or more", self._left_s)
        # A setting in force for whose parts there is no time is held against its challengers as computed.
        while fitting := [
            each for each in next_to_try(in_force, grid, self.speeds) if self._needs_s(each) < self._left_s
        ]:
            candidate = fitting[0]
            async with self._cut_off():
                trial = await self.attempt(candidate, int(self._sample(candidate)))
            self.speeds.trials.append(trial)
            self._report(
                f"  {candidate_text(candidate)}: {rate_text(trial.rate)}, sent {size_text(trial.stored)}, "
                f"{duration_text(max(0.0, self._left_s))} left"
            )

    def _needs_s(self, candidate: Candidate) -> float:
        """The time of a pass."""
        sample = self._sample(candidate)
        first = min(sample, candidate.part_size / self.speeds.ratio(candidate))
        return sample / self.speeds.rate(candidate) + first / max(each.rate for each in self.speeds.levels.values())

    def _sample(self, candidate: Candidate) -> float:
        return min(self.data, PARTS_EACH * candidate.in_flight / self.speeds.ratio(candidate))

    async def attempt(self, candidate: Candidate, sample: int) -> Trial:
        """One pass over so many bytes; its parts are removed, whatever happens."""
        plan = replace(
            self._plan(sample, level=level_number(candidate.compress)),
            part_size=candidate.part_size,
            upload_concurrency=candidate.upload_concurrency,
        )
        store, ledger = _Timed(self._store), MemoryLedger()
        started = perf_counter()
        try:
            stored = await self._pass(plan, store, ledger)
            seconds = perf_counter() - started
        finally:
            self._sent = {part_name(plan.prefix, part.index): (part.size, checksum) for part, checksum in ledger.sent}
            await self._remove()
        size = sum(extent.length for extent in plan.extents or ())
        rate = steady_rate(store.sent, candidate.upload_concurrency) * size / stored
        return Trial(candidate=candidate, sample=size, seconds=seconds, stored=stored, rate=rate)

    async def _pass(self, plan: Plan, store: PartStore, ledger: MemoryLedger | None = None) -> int:
        """Bundle the plan's extents; returns the number of stored bytes."""
        measured = await Pipeline(plan, self._measurable.volume, store, BundleKey.generate(), ledger=ledger).run()
        return measured.split.bundled_size

    async def _remove(self) -> None:
        """Remove everything that was sent."""
        store = self._store

        async def remove_all(progress: Progress) -> None:
            async def remove(name: str) -> None:
                await store.remove(name, *self._sent[name], progress=partial(progress, compared=True))
                progress()

            await try_each(remove, self._sent)

        def report(left: AmistreamError | None) -> None:
            if left is not None:
                self._note(
                    f"not all that was sent is removed: {left.message}; its names begin with {probe_of(self._name())}"
                )
            for name in sorted(store.unanswered.late.keys() & self._sent.keys()):
                self._note(f"{store.location}/{name} may still appear: the request to store it was never answered")

        await undo_despite_cancel(remove_all, report, stall_s=REMOVAL_STALL_S)
        self._sent.clear()

    def _plan(self, sample: int, *, level: int | None) -> Plan:
        self._count += 1
        extents = sample_extents(self._extents, sample)
        return replace(self._measurable.plan, prefix=self._name(), level=level, extents=extents)

    def _name(self) -> str:
        return probe_object(self._token, self._count)

    def _announce(self, number: int, what: str, time_s: float) -> None:
        self._report(f"round {number} of 3: {what}, about {duration_text(max(0.0, time_s))}")


class _Nowhere:
    """The part of a store that a pass needs, which keeps nothing."""

    location = "nowhere"

    async def checksum(self, name: str, data: memoryview, sha1: bytes) -> str:
        del name, data, sha1
        return ""

    async def put(self, name: str, data: memoryview, sha1: bytes, on_bytes: OnBytes) -> None:
        del name, data, sha1, on_bytes


class _Timed:
    """A store that records when each part was sent."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.location = store.location
        self.checksum = store.checksum
        self.sent: list[tuple[float, float, int]] = []
        """Beginning, end and size of each part."""

    async def put(self, name: str, data: memoryview, sha1: bytes, on_bytes: OnBytes) -> None:
        started = perf_counter()
        await self._store.put(name, data, sha1, on_bytes)
        self.sent.append((started, perf_counter(), len(data)))


def candidate_text(candidate: Candidate) -> str:
    return f"parts of {size_text(candidate.part_size)}, {candidate.upload_concurrency} in flight, {candidate.compress}"


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
