"""Computes how fast each setting would bundle, from speeds that were measured one by one; pure.

A bundle goes no faster than the cores compress and no faster than the link takes the compressed bytes:

    speed = min(compression speed, upload speed / compression ratio)        bytes of the volume per second
    upload speed = min(n x part / (delay + part / speed of one of n connections), speed of the link)

So a compression is measured without the network, and the link without the volume: the speed of every combination of
part size, parts in flight and compression follows, without a pass for each.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import inf

from amistream.settings import memory_ceiling
from amistream.values import MIB

PART_SIZES = (5 * MIB, 10 * MIB, 20 * MIB, 40 * MIB)
CONCURRENCIES = (2, 4, 8, 16)
LEVELS = ("fast", "balanced", "small")
AUTO = "auto"
"""Chooses among the levels while it runs."""

SMALLEST_SPREAD = 0.02
"""Two speeds that differ by less are taken as equal, however well they were measured. Guess."""
_NO_GAIN = 1.05
"""More connections that raise the speed of the link by less show that it is full. Guess."""
_NEAR = 0.85
"""Speeds of this share of another are near it: more than what is computed is usually wrong by. Guess."""
_AUTO_LOSS = 0.97
"""Share of the best level's speed that `auto`, which has to find it, is expected to reach. Guess."""


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Candidate:
    """One setting of the three knobs; the part size in bytes."""

    part_size: int
    upload_concurrency: int
    compress: str

    @property
    def in_flight(self) -> int:
        return self.part_size * self.upload_concurrency


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelSpeed:
    """A compression without the network: bytes of the volume per second, and stored bytes per byte of the volume."""

    rate: float
    ratio: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkSpeed:
    """The link with a number of connections at a time. `rate`: bytes per second of all of them together."""

    rate: float
    piece: int
    """Bytes of each object that was sent."""
    spread: float
    """Relative standard error of `rate`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One pass with a candidate."""

    candidate: Candidate
    sample: int
    seconds: float
    stored: int
    rate: float
    """Bytes of the volume per second while all uploads were under way: without the first part and the last ones."""


@dataclass(slots=True, kw_only=True)
class Speeds:
    """All that was measured so far; computes the speed of any candidate from it."""

    delay_s: float = 0.0
    """Time of an upload of next to nothing."""
    levels: dict[str, LevelSpeed] = field(default_factory=dict)
    links: dict[int, LinkSpeed] = field(default_factory=dict)
    trials: list[Trial] = field(default_factory=list)

    def in_vain(self) -> int:
        """Count the last measurements in a row in which more connections brought no more speed."""
        rates = [each.rate for _, each in sorted(self.links.items())]
        gains = [rate >= max(rates[:index]) * _NO_GAIN for index, rate in enumerate(rates) if index]
        return next((number for number, gain in enumerate(reversed(gains)) if gain), len(gains))

    def upload_rate(self, part_size: int, concurrency: int) -> float:
        """Stored bytes per second."""
        link = max(each.rate for each in self.links.values()) if self.in_vain() else inf
        known = max((number for number in self.links if number <= concurrency), default=min(self.links))
        measured = self.links[known]
        # Of the time of a piece on one connection the delay stays, and the rest grows with the size.
        piece_s = measured.piece * known / measured.rate
        sending_s = max(piece_s / 2, piece_s - self.delay_s)
        part_s = self.delay_s + sending_s * part_size / measured.piece
        return min(link, concurrency * part_size / part_s)

    def computed(self, candidate: Candidate) -> float:
        """The speed of a candidate, bytes of the volume per second."""
        stored = self.upload_rate(candidate.part_size, candidate.upload_concurrency)
        rates = {name: min(level.rate, stored / level.ratio) for name, level in self.levels.items()}
        if candidate.compress == AUTO:
            return _AUTO_LOSS * max(rates.values())
        return rates[candidate.compress]

    def ratio(self, candidate: Candidate) -> float:
        """Stored bytes per byte of the volume, at most."""
        ratios = {name: level.ratio for name, level in self.levels.items()}
        return ratios.get(candidate.compress) or max(ratios.values())

    def measured(self, candidate: Candidate) -> float | None:
        """The mean speed of a candidate's passes; None if there was none."""
        rates = [trial.rate for trial in self.trials if trial.candidate == candidate]
        return sum(rates) / len(rates) if rates else None

    def rate(self, candidate: Candidate) -> float:
        return self.measured(candidate) or self.computed(candidate)

    @property
    def spread(self) -> float:
        """The relative difference that is no more than chance."""
        found = [SMALLEST_SPREAD, *(each.spread for each in self.links.values())]
        for candidate in {trial.candidate for trial in self.trials}:
            rates = [trial.rate for trial in self.trials if trial.candidate == candidate]
            found.append((max(rates) - min(rates)) / max(rates))
        return max(found)


def candidates(*, workers: int, block_size: int, memory_limit: int) -> list[Candidate]:
    """Every combination whose memory ceiling is within the limit (bytes)."""
    return [
        Candidate(part_size=part_size, upload_concurrency=concurrency, compress=compress)
        for part_size, concurrency, compress in itertools.product(PART_SIZES, CONCURRENCIES, (*LEVELS, AUTO))
        if memory_ceiling(workers=workers, block_size=block_size, part_size=part_size, upload_concurrency=concurrency)
        <= memory_limit
    ]


def steady_rate(sent: Sequence[tuple[float, float, int]], concurrency: int) -> float:
    """Return the bytes per second of parts, each given by its beginning, its end and its size.

    Counted until the last part begins: after that fewer and fewer are under way. Too few parts count with their end.
    """
    begin, until = min(each[0] for each in sent), max(each[0] for each in sent)
    if len(sent) < 2 * concurrency or until == begin:
        return sum(each[2] for each in sent) / (max(each[1] for each in sent) - begin)
    return sum(size * (min(ended, until) - began) / (ended - began) for began, ended, size in sent) / (until - begin)


def ranked(grid: Sequence[Candidate], speeds: Mapping[Candidate, float]) -> list[Candidate]:
    """The candidates, best first; among those as good as the best, the one with the fewest bytes in flight leads."""
    ordered = sorted(grid, key=lambda each: (-speeds[each], each.in_flight))
    best = min(
        (each for each in ordered if speeds[each] >= speeds[ordered[0]] * (1 - SMALLEST_SPREAD)),
        key=lambda each: (each.in_flight, -speeds[each]),
    )
    return [best, *(each for each in ordered if each != best)]


def next_to_try(in_force: Candidate, grid: Sequence[Candidate], speeds: Speeds) -> list[Candidate]:
    """The candidates of which a pass is of use, the most useful first; none when all is settled.

    First the setting in force and the best; then those that must be near it by their computed speed, with another
    number of connections; then, if they are close, the first two again.
    """
    tried = [trial.candidate for trial in speeds.trials]
    best = ranked(grid, {each: speeds.rate(each) for each in grid})[0]
    wanted = [each for each in (in_force, best) if each not in tried]
    computed = {each: speeds.computed(each) for each in grid}
    least = max(computed.values()) * _NEAR
    for each in ranked(grid, computed):
        numbers = {other.upload_concurrency for other in (*tried, *wanted)}
        if computed[each] >= least and each.upload_concurrency not in numbers:
            wanted.append(each)
    if best != in_force and speeds.rate(best) < speeds.rate(in_force) / _NEAR:
        wanted += [each for each in (in_force, best) if tried.count(each) == 1]
    return wanted


def recommend(in_force: Candidate, grid: Sequence[Candidate], speeds: Speeds) -> Candidate:
    """The best candidate, if it beats the setting in force by more than the spread.

    Where several candidates were measured only they compete: a measured figure counts for more than a computed one.
    """
    tried = {trial.candidate for trial in speeds.trials} | {in_force}
    competing = [each for each in grid if each in tried] if len(tried) > 1 else list(grid)
    rate = speeds.rate if len(tried) > 1 else speeds.computed
    best = ranked(competing, {each: rate(each) for each in competing})[0]
    return best if rate(best) > rate(in_force) * (1 + speeds.spread) else in_force
