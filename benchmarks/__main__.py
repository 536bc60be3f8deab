"""`python -m benchmarks`: run the scenarios, show their tables, write their results."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ByteSize, TypeAdapter, ValidationError
from rich.console import Console

from amistream.values import GIB, MIB
from benchmarks import machine, results, table
from benchmarks.bench import Bench, Options
from benchmarks.charts import draw_all
from benchmarks.inputs import Inputs, default_cache
from benchmarks.jobs import JobRunner
from benchmarks.scenarios import SCENARIOS
from benchmarks.timing import BenchmarkError

RESULTS = Path(__file__).parent / "results"
CHARTS = Path(__file__).parents[1] / "docs" / "charts"
EXIT_FAILED = 1
FILE_WIDTH = 140
"""Columns of a table that goes into a file."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = _parser()
    options = parser.parse_args(arguments)
    if unknown := set(options.scenarios) - set(SCENARIOS):
        parser.error(f"there is no scenario {', '.join(sorted(unknown))}; --list shows them")
    console = Console()
    if not console.is_terminal:
        console.width = FILE_WIDTH
    if options.list:
        _list(console)
        return 0
    if options.charts:
        return _draw(options.results, options.charts)
    host = machine.describe()
    console.print(machine.one_line(host))
    said = Console(stderr=True)
    done: list[dict[str, Any]] = []
    # The bundles of a whole run are small beside the cached inputs, and lie on the same file system.
    try:
        inputs = Inputs(options.cache, options.input)
        with tempfile.TemporaryDirectory(prefix="run-", dir=options.cache) as scratch:
            bench = Bench(
                options=_sizes(options),
                inputs=inputs,
                jobs=JobRunner(Path(scratch)),
                scratch=Path(scratch),
                results=options.results,
                say=lambda text: said.print(text, style="dim", highlight=False),
            )
            for name in options.scenarios or SCENARIOS:
                outcome = SCENARIOS[name].run(bench)
                table.show(outcome, console)
                done.append(outcome.as_json(host))
                results.write(done[-1], options.results / f"{name}.json")
    except BenchmarkError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return EXIT_FAILED
    if options.json:
        results.write(done, options.json)
    print(f"results: {options.results}; inputs are kept in {options.cache}", file=sys.stderr)
    return 0


def _draw(kept: Path, directory: Path) -> int:
    try:
        for path in draw_all(kept, directory):
            print(path)
    except BenchmarkError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return EXIT_FAILED
    return 0


def _sizes(options: argparse.Namespace) -> Options:
    return Options(
        size=options.size,
        runs=options.runs,
        peer_size=options.peer_size or options.size,
        scale_unit=options.scale_unit or options.size * 2,
        link_bytes_per_s=options.link * 1e6,
        connection_bytes_per_s=options.connection * 1e6,
        round_trip_s=options.round_trip / 1e3,
        budget_s=options.budget,
        tree=options.tree,
        tree_files=options.files,
    )


def _list(console: Console) -> None:
    for scenario in SCENARIOS.values():
        console.print(f"{scenario.name:<11} {scenario.takes:>8}  {scenario.about}", highlight=False)
    console.print(
        "Times: --size 512MiB --runs 3 on 2 cores; the first run makes the inputs (20 GB), which takes some minutes.",
        highlight=False,
    )


def _size(text: str) -> int:
    try:
        size = int(TypeAdapter(ByteSize).validate_python(text))
    except ValidationError:
        raise argparse.ArgumentTypeError(f"{text!r} is no size; write 512MiB or 1GiB") from None
    if size < MIB or size % MIB:
        raise argparse.ArgumentTypeError("a size is a whole number of MiB")
    return size


def _count(text: str) -> int:
    count = int(text)
    if count < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return count


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Benchmarks of amistream. Without names: all of them.",
        epilog="example: python -m benchmarks throughput peers --size 1GiB --runs 5",
    )
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=f"of {', '.join(SCENARIOS)}")
    parser.add_argument("--list", action="store_true", help="show the scenarios and how long each takes")
    parser.add_argument(
        "--charts", type=Path, nargs="?", const=CHARTS, metavar="DIR", help="only draw the kept results (docs/charts)"
    )
    parser.add_argument("--size", type=_size, default=GIB // 2, help="of the volume (default: 512MiB)")
    parser.add_argument("--peer-size", type=_size, help="of the volume of `peers` (default: --size)")
    parser.add_argument("--scale-unit", type=_size, help="smallest volume of `scale` (default: twice --size)")
    parser.add_argument("--runs", type=_count, default=3, help="rounds, of which the medians are shown (default: 3)")
    parser.add_argument("--input", choices=("usr", "synthetic"), default="usr", help="what the volume holds")
    parser.add_argument("--link", type=float, default=50.0, metavar="MB/S", help="of `resume`, `search` (default: 50)")
    parser.add_argument(
        "--round-trip", type=float, default=20.0, metavar="MS", help="of `tuning`, `resume`, `search` (default: 20)"
    )
    parser.add_argument(
        "--connection", type=float, default=5.0, metavar="MB/S", help="each connection of `search` (default: 5)"
    )
    parser.add_argument("--budget", type=float, default=30.0, metavar="S", help="of each run of tune (default: 30)")
    parser.add_argument("--tree", type=Path, default=Path("/usr"), metavar="DIR", help="of `tree` (default: /usr)")
    parser.add_argument("--files", type=_count, default=300_000, help="small ones, of `tree` (default: 300000)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all results into one file")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIR", help="default: benchmarks/results")
    parser.add_argument("--cache", type=Path, default=default_cache(), metavar="DIR", help="where inputs are kept")
    return parser


if __name__ == "__main__":
    sys.exit(main())
