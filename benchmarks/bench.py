"""The inputs and the contract of a scenario."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from amistream.values import MIB
from benchmarks.inputs import Inputs
from benchmarks.jobs import JobRunner
from benchmarks.results import Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The sizes of a run, in bytes, and the simulated link."""

    size: int
    runs: int
    peer_size: int
    scale_unit: int
    link_bytes_per_s: float
    connection_bytes_per_s: float
    """Of each connection of `search`; 0: no limit."""
    round_trip_s: float
    budget_s: float
    """Time of each run of `tune`."""
    tree: Path
    """Directory of the machine that `tree` bundles."""
    tree_files: int
    """Small files that `tree` makes."""

    @property
    def tune_size(self) -> int:
        """Size for each of the many points of the tuning's grid: smaller, a whole number of MiB."""
        return max(MIB, self.size // 4 // MIB * MIB)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """The inputs of a scenario, and the runner of its jobs."""

    options: Options
    inputs: Inputs
    jobs: JobRunner
    scratch: Path
    """Directory for files of this run; removed after it."""
    results: Path
    say: Callable[[str], None]
    """Show progress to the user."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """A benchmark. `takes` is the time it needs with --size 512MiB --runs 3 on 2 cores, inputs made before."""

    name: str
    about: str
    takes: str
    run: Callable[[Bench], Outcome]
