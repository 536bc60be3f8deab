"""Wall and CPU time: of a piece of code, of a shell pipeline with all its processes, and of rounds of variants."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter, thread_time
from typing import TypeVar

T = TypeVar("T")


class BenchmarkError(Exception):
    """A benchmark cannot be run, or its command failed. The message gives the reason."""


@dataclass(slots=True)
class Cost:
    """Seconds, added up over the calls of `timed`."""

    wall_s: float = 0.0
    cpu_s: float = 0.0

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Add the time of the block on this thread."""
        cpu, wall = thread_time(), perf_counter()
        try:
            yield
        finally:
            self.wall_s += perf_counter() - wall
            self.cpu_s += thread_time() - cpu


def run_shell(script: str, *, directory: Path, environ: Mapping[str, str]) -> Cost:
    """Run a bash script to its end; its CPU seconds are those of every process that it waited for.

    Raises `BenchmarkError` with what it printed when it, or any program of a pipeline in it, fails.
    """
    return run_program(
        ["bash", "-euo", "pipefail", "-c", script], directory=directory, environ={**os.environ, **environ}
    )


def run_program(argv: Sequence[str], *, directory: Path, environ: Mapping[str, str]) -> Cost:
    """Run a program to its end, in this environment alone. Otherwise as `run_shell`."""
    wall = perf_counter()
    said = directory / "stderr"
    with said.open("wb") as errors:
        process = subprocess.Popen(
            argv,
            cwd=directory,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
        )
        # wait4 and not RUSAGE_CHILDREN: that one would add whatever else was started meanwhile.
        _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    wall = perf_counter() - wall
    if process.returncode:
        raise BenchmarkError(f"{argv[0]} ended with {process.returncode}: {said.read_text(errors='replace')[-800:]}")
    return Cost(wall, used.ru_utime + used.ru_stime)


def alternate(rounds: int, variants: Mapping[str, Callable[[], T]]) -> Iterator[dict[str, T]]:
    """Yield each round's results: every variant once, in turns forwards and backwards, so that a drift hits all."""
    names = list(variants)
    for number in range(rounds):
        order = names if number % 2 == 0 else names[::-1]
        done = {name: variants[name]() for name in order}
        yield {name: done[name] for name in names}


def medians(runs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Each figure's median over the runs that have it."""
    keys = dict.fromkeys(key for run in runs for key in run)
    return {key: median(run[key] for run in runs if key in run) for key in keys}
