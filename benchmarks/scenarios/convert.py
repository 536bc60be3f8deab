"""Conversions to a snapshot, from an image, a bundle and a directory, against the sum of their primitives."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

from amistream.ports.snapshots import BLOCK
from amistream.values import GIB, MIB
from benchmarks import primitives, primitives_back
from benchmarks.bench import Bench, Scenario
from benchmarks.inputs import warm
from benchmarks.results import Column, Goal, Outcome
from benchmarks.sink_process import Sink, running_sink
from benchmarks.timing import alternate
from benchmarks.trees import measure

FEW, MOST = (1, 8), 64
"""Blocks in flight, behind `LATENCY_S`."""
LATENCY_S = 0.1
GROWN = 4
PUT_S = 0.6e-3
"""CPU seconds of a put in the goal: sending 512 KiB by HTTP, signed."""
MOST_CPU = 1.25
LEAST_REACH = 0.9
MOST_RSS_MIB = 250
MOST_GROWTH = 1.1

READ, BACK = "read and SHA-256, one thread", "the way back and SHA-256, one thread"
IMAGE, BUNDLE, TREE = "an image", "a bundle", "a directory of one large file"
GROWN_IMAGE = f"an image, {GROWN} times as large"
UNBUNDLE, UPLOAD = "unbundle to a file", "upload of that file with the SDK"
BY_HAND = "unbundle to a file, then its upload"

COLUMNS = (
    Column("mb_per_s", "MB/s", ".0f"),
    Column("blocks_per_s", "blocks/s", ".0f"),
    Column("wall_s", "wall s"),
    Column("cpu_s", "CPU s"),
    Column("cpu_ratio", "CPU / sum"),
    Column("reach", "of the possible"),
    Column("peak_rss_mib", "peak RSS MiB", ".0f"),
)
NOTE = (
    f"The path without its job, into an endpoint that discards, over HTTP, {MOST} puts at a time where not said "
    f"otherwise. Sum: the primitives and {PUT_S * 1e3:g} ms for each block that is sent. Possible: puts / "
    f"{LATENCY_S * 1e3:g} ms, but no more than the same image reaches without latency, which is what the CPU allows: "
    "the endpoint runs on the same cores. coldsnap was not at hand: the upload by hand is a script with the SDK, "
    "without repeats."
)


def run(bench: Bench) -> Outcome:
    """Each round: the primitives, each source, each number of puts behind a latency, and the way by hand."""
    size = bench.options.size
    volume, grown = bench.inputs.volume(size), bench.inputs.repeated(size, GROWN)
    warm(volume)
    warm(grown)
    stream, image, bundle = bench.scratch / "stream", bench.scratch / "image", bench.scratch / "bundle"
    primitives_back.make_stream(volume, stream)
    bench.jobs.unpack(volume, bundle=bundle, image=None)
    (manifest,) = bundle.glob("*.manifest.xml")
    tree = bench.scratch / "tree"
    tree.mkdir()
    shutil.copyfile(volume, tree / "large")
    outcome = Outcome("convert", COLUMNS, {"kind": bench.inputs.kind, "size": size}, notes=[NOTE])
    with running_sink(bench.scratch) as sink, running_sink(bench.scratch, round_trip_s=LATENCY_S) as far:
        variants: dict[str, Callable[[], dict[str, float]]] = {
            READ: partial(_read, volume),
            BACK: partial(_back, stream, volume),
            IMAGE: partial(_convert, bench, volume, sink),
            BUNDLE: partial(_convert, bench, manifest, sink),
            TREE: partial(_convert, bench, tree, sink, size=measure(tree).image_size),
            GROWN_IMAGE: partial(_convert, bench, grown, sink),
            **{_far(puts): partial(_convert, bench, volume, far, puts) for puts in FEW},
            # Of the small one, the beginning and the end would be half of the time.
            _far(MOST): partial(_convert, bench, grown, far),
            UNBUNDLE: partial(_unbundle, bench, volume, bundle, image),
            UPLOAD: partial(_upload, bench, volume, sink),
        }
        for number, figures in enumerate(alternate(bench.options.runs, variants), 1):
            bench.say(f"convert: round {number} of {bench.options.runs}")
            _compare(figures)
            for name, row in figures.items():
                outcome.add(name, row)
    growth = outcome.median(GROWN_IMAGE, "peak_rss_mib") / outcome.median(IMAGE, "peak_rss_mib")
    for name in (IMAGE, GROWN_IMAGE, BUNDLE):
        outcome.goal(f"{name}, CPU over the sum", name, "cpu_ratio", MOST_CPU)
    outcome.goal(f"{MOST} puts behind a latency, of the possible", _far(MOST), "reach", LEAST_REACH, at_least=True)
    outcome.goal(f"{GROWN_IMAGE}, peak RSS in MiB", GROWN_IMAGE, "peak_rss_mib", MOST_RSS_MIB)
    outcome.goals.append(Goal(f"{GROWN_IMAGE}, growth of the peak RSS", growth, MOST_GROWTH))
    return outcome


def _far(puts: int) -> str:
    return f"{GROWN_IMAGE if puts == MOST else IMAGE}, puts {puts}, answers after {LATENCY_S * 1e3:g} ms"


def _compare(figures: dict[str, dict[str, float]]) -> None:
    """Add to each row what it is held against, of the same round."""
    for name, yardstick in ((IMAGE, READ), (GROWN_IMAGE, READ), (BUNDLE, BACK), (TREE, READ)):
        row = figures[name]
        least = figures[yardstick]["cpu_s_per_byte"] * row["bytes"] + PUT_S * row["blocks"]
        row["cpu_ratio"] = row["cpu_s"] / least
    for puts, near in (*((puts, IMAGE) for puts in FEW), (MOST, GROWN_IMAGE)):
        row = figures[_far(puts)]
        row["reach"] = row["blocks_per_s"] / min(puts / LATENCY_S, figures[near]["blocks_per_s"])
    figures[BY_HAND] = {name: figures[UNBUNDLE][name] + figures[UPLOAD][name] for name in ("wall_s", "cpu_s")}


def _read(volume: Path) -> dict[str, float]:
    return _primitives(primitives.measure_digest(volume))


def _back(stream: Path, volume: Path) -> dict[str, float]:
    back, digest = primitives_back.measure_back(stream), primitives.measure_digest(volume).steps["sha256"]
    back.steps["sha256"] = digest
    return _primitives(back)


def _primitives(measured: primitives.Yardstick) -> dict[str, float]:
    return {
        "wall_s": measured.wall_s,
        "cpu_s": measured.cpu_s,
        "cpu_s_per_byte": measured.cpu_s / measured.size_in,
        "mb_per_s": measured.size_in / measured.wall_s / 1e6,
        **{f"{name}_cpu_s_per_gib": cost.cpu_s / measured.size_in * GIB for name, cost in measured.steps.items()},
    }


def _convert(bench: Bench, source: Path, sink: Sink, puts: int = MOST, size: int | None = None) -> dict[str, float]:
    figures = bench.jobs.convert(source, sink, puts=puts, size=size)
    blocks = figures.bundled_size / BLOCK
    return {
        "bytes": figures.size,
        "blocks": blocks,
        "wall_s": figures.wall_s,
        "cpu_s": figures.cpu_s,
        "mb_per_s": figures.size / figures.wall_s / 1e6,
        "blocks_per_s": blocks / figures.wall_s,
        "peak_rss_mib": figures.peak_rss / MIB,
    }


def _unbundle(bench: Bench, volume: Path, bundle: Path, image: Path) -> dict[str, float]:
    figures = bench.jobs.unpack(volume, bundle=bundle, image=image)
    image.unlink()
    return {"wall_s": figures.wall_s, "cpu_s": figures.cpu_s, "peak_rss_mib": figures.peak_rss / MIB}


def _upload(bench: Bench, volume: Path, sink: Sink) -> dict[str, float]:
    return bench.jobs.sdk_upload(volume, sink, puts=MOST)


SCENARIO = Scenario("convert", "conversions to EBS snapshots against their primitives", "3 min", run)
