"""The pipelines that people build from shell commands, beside the same bundle by amistream."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

from amistream.values import GIB, MIB
from benchmarks.bench import Bench, Scenario
from benchmarks.inputs import warm
from benchmarks.results import Column, Outcome
from benchmarks.sink_process import BUCKET, Sink, running_sink
from benchmarks.timing import alternate, run_shell

PART_MIB = 10
OURS = "amistream"

# The digest runs beside, fed through a named pipe: one that tee starts by itself, as in `tee >(openssl sha1)`, is not
# waited for, and its CPU seconds would be lost.
PIPELINE = """
mkfifo archive
openssl dgst -sha1 <archive >archive.sha1 &
tar -cf - -C "$SOURCE_DIR" "$SOURCE_NAME" | tee archive | {compress} |
    openssl enc -aes-128-cbc -K "$KEY" -iv "$IV" | split -b {part_mib}M -d -a 3 - part.
wait $!
for part in part.???; do
    openssl dgst -sha1 "$part" >>parts.sha1
    curl --silent --show-error --fail --upload-file "$part" "$URL/"
done
"""
COMPRESSORS = {
    "gzip -9 (as the AMI tools)": "gzip -9",
    "pigz (as euca2ools)": "pigz",
    "igzip -1": "igzip -1",
}
GOALS = {"gzip": 35, "pigz": 10, "igzip": 2}
"""Least factor by which each takes longer."""

COLUMNS = (
    Column("mb_per_s", "MB/s", ".1f"),
    Column("wall_s", "wall s"),
    Column("cpu_s", "CPU s"),
    Column("cpu_s_per_gib", "CPU s/GiB", ".1f"),
    Column("wall_ratio", "wall / ours", ".1f"),
    Column("cpu_ratio", "CPU / ours", ".1f"),
    Column("bundled_share", "bundled / size", ".3f"),
)

NOTE = (
    "pipelines: tar | tee (openssl sha1) | COMPRESS | openssl enc -aes-128-cbc | split, then for each part "
    "openssl sha1 and curl. Their CPU is that of all their programs. amistream: the whole job, checks and "
    "manifest included, in a warmed process as a daemon has it."
)


def run(bench: Bench) -> Outcome:
    """Each round: every pipeline whose compressor is installed, and amistream, into the same sink."""
    size = bench.options.peer_size
    volume = bench.inputs.volume(size)
    warm(volume)
    outcome = Outcome(
        "peers",
        COLUMNS,
        {"kind": bench.inputs.kind, "size": size, "part_size": PART_MIB * MIB},
        notes=[NOTE],
    )
    installed = {name: command for name, command in COMPRESSORS.items() if shutil.which(command.split()[0])}
    outcome.notes += [f"not installed, so left out: {name}" for name in COMPRESSORS if name not in installed]
    with running_sink(bench.scratch) as sink:
        variants: dict[str, Callable[[], dict[str, float]]] = {
            name: partial(_pipeline, bench, volume, command, sink) for name, command in installed.items()
        }
        variants[OURS] = partial(_ours, bench, volume, sink)
        for number, figures in enumerate(alternate(bench.options.runs, variants), 1):
            bench.say(f"peers: round {number} of {bench.options.runs}")
            for name, measured in figures.items():
                ratios = {key: measured[f"{key}_s"] / figures[OURS][f"{key}_s"] for key in ("wall", "cpu")}
                outcome.add(name, {**measured, **{f"{key}_ratio": ratio for key, ratio in ratios.items()}})
    for name, command in installed.items():
        program = command.split()[0]
        outcome.goal(f"times faster than with {program}", name, "wall_ratio", GOALS[program], at_least=True)
    return outcome


def _pipeline(bench: Bench, volume: Path, compress: str, sink: Sink) -> dict[str, float]:
    directory = bench.scratch / f"peer-{secrets.token_hex(4)}"
    directory.mkdir()
    environ = {
        "SOURCE_DIR": str(volume.parent),
        "SOURCE_NAME": volume.name,
        "KEY": secrets.token_hex(16),
        "IV": secrets.token_hex(16),
        "URL": f"{sink.url}/{BUCKET}/peer",
    }
    cost = run_shell(PIPELINE.format(compress=compress, part_mib=PART_MIB), directory=directory, environ=environ)
    size = volume.stat().st_size
    bundled = sum(part.stat().st_size for part in directory.glob("part.???"))
    shutil.rmtree(directory)
    return {
        "wall_s": cost.wall_s,
        "cpu_s": cost.cpu_s,
        "mb_per_s": size / cost.wall_s / 1e6,
        "cpu_s_per_gib": cost.cpu_s / size * GIB,
        "bundled_share": bundled / size,
    }


def _ours(bench: Bench, volume: Path, sink: Sink) -> dict[str, float]:
    return bench.jobs.run(bench.jobs.sink(volume, sink, part_size=PART_MIB * MIB), sink).row()


SCENARIO = Scenario("peers", "the shell pipelines with gzip -9, pigz and igzip, and amistream", "6 min", run)
