"""Runs whole jobs in a child process: their specification, the child, and its report."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from amistream.keys import CERTIFICATE_FILE, own_identity
from amistream.values import GIB, MIB
from benchmarks.sink_process import BUCKET, Sink
from benchmarks.timing import BenchmarkError

LARGEST = 64 * GIB
_PRIVATE = ("AWS_", "EC2_", "AMISTREAM_")


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class JobSpec(_Model):
    """One job. `destination` None: the data path alone, into nothing."""

    source: str
    destination: str | None = None
    endpoint_url: str | None = None
    copies: int = 1
    """Number of the job's destinations, all below `destination`."""
    options: dict[str, Any] = {}
    """Further fields of the job's request, such as compress or part_size."""
    ticker: bool = False
    """Measure the lateness of the event loop meanwhile."""
    interrupt_at: int | None = None
    """Interrupt the job when so many bytes of its parts are stored, and measure its second run."""


class Lateness(_Model):
    """Lateness of a 1 ms timer, in seconds."""

    p50_s: float
    p99_s: float
    max_s: float
    ticks: int


class Figures(_Model):
    """A child's figures of one job, in a warmed process, its start excluded. Sizes in bytes."""

    size: int
    bundled_size: int
    wall_s: float
    cpu_s: float
    peak_rss: int
    bottleneck: str | None
    bytes_sent: int = 0
    """Bytes to the sink by the measured run."""
    idle: Lateness | None = None
    """Memory before the job began."""
    busy: Lateness | None = None

    def row(self) -> dict[str, float]:
        """The figures that every table shows."""
        return {
            "wall_s": self.wall_s,
            "cpu_s": self.cpu_s,
            "mb_per_s": self.size / self.wall_s / 1e6,
            "cpu_s_per_gib": self.cpu_s / self.size * GIB,
            "peak_rss_mib": self.peak_rss / MIB,
            "bundled_share": self.bundled_size / self.size,
        }


class Batch(_Model):
    """The standard input of a child."""

    settings: dict[str, Any]
    ec2_certificate: str
    scratch: str
    jobs: tuple[JobSpec, ...]


class SearchSpec(_Model):
    """The standard input of the child that searches."""

    settings: dict[str, Any]
    source: str
    endpoint_url: str
    budget_s: float
    runs: int


class Tuned(_Model):
    """One run of `tune`; candidates by name."""

    in_force: str
    recommended: str
    wall_s: float
    sent: int


class UnpackSpec(_Model):
    """The standard input of the child that unpacks: a volume, and the directory of its bundle."""

    settings: dict[str, Any]
    ec2_certificate: str
    source: str
    bundle: str
    image: str | None
    """The file for the image; None: no file, as for `verify --deep`."""


class ConvertSpec(_Model):
    """The standard input of the child that converts: an image, a directory or a manifest."""

    settings: dict[str, Any]
    source: str
    endpoint_url: str
    puts: int
    size: int | None = None
    """Of the image of a directory."""


class TreeSpec(_Model):
    """The standard input of the child that reads a tree; `image` None: its data go nowhere."""

    source: str
    size: int
    image: str | None = None


class TreeFigures(_Model):
    """A child's figures of one tree, as a volume without a job."""

    inodes: int
    data: int
    """Bytes that are read, or made, of the image."""
    moved: int
    walk_cpu_s: float
    walk_wall_s: float
    walk_rss: int
    read_cpu_s: float
    read_wall_s: float
    peak_rss: int


class Search(_Model):
    """The speed of each candidate in a pass over the whole volume, and the runs of `tune`."""

    grid: dict[str, float]
    grid_wall_s: float
    tuned: tuple[Tuned, ...]


class JobRunner:
    """Runs jobs in children; keys and scratch files are in `directory`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        own_identity(directory / "user")
        # Any certificate will do as EC2's: nobody opens these bundles.
        own_identity(directory / "ec2")
        self._serial = 0

    def nothing(self, source: Path, **options: Any) -> JobSpec:
        return JobSpec(source=str(source), options=options)

    def directory(self, source: Path, **options: Any) -> JobSpec:
        self._serial += 1
        return JobSpec(source=str(source), destination=str(self._directory / f"to-{self._serial}"), options=options)

    def sink(self, source: Path, sink: Sink, **options: Any) -> JobSpec:
        return JobSpec(source=str(source), destination=f"s3://{BUCKET}", endpoint_url=sink.url, options=options)

    def run(self, spec: JobSpec, sink: Sink | None = None) -> Figures:
        """Run one job in its own process. Raises `BenchmarkError` with the child's message when it fails."""
        return self.run_all([spec], sink)[0]

    def run_all(self, specs: Sequence[JobSpec], sink: Sink | None = None) -> list[Figures]:
        """Run several jobs in turn in one process, as a daemon would. `sink` is their sink, if they have one."""
        batch = Batch(
            settings=self._settings(),
            ec2_certificate=str(self._directory / "ec2" / CERTIFICATE_FILE),
            scratch=str(self._directory),
            jobs=tuple(specs),
        )
        return [Figures.model_validate_json(line) for line in _run_child("benchmarks.child", batch, sink)]

    def search(self, source: Path, sink: Sink, *, budget_s: float, runs: int) -> Search:
        """Try every candidate, then run `tune` so often."""
        spec = SearchSpec(
            settings=self._settings(), source=str(source), endpoint_url=sink.url, budget_s=budget_s, runs=runs
        )
        return Search.model_validate_json("".join(_run_child("benchmarks.search_child", spec, sink)))

    def unpack(self, source: Path, *, bundle: Path, image: Path | None) -> Figures:
        """Unpack a bundle in its own process; the bundle of `source` is made first if it is missing."""
        spec = UnpackSpec(
            settings=self._settings(),
            ec2_certificate=str(self._directory / "ec2" / CERTIFICATE_FILE),
            source=str(source),
            bundle=str(bundle),
            image=str(image) if image else None,
        )
        return Figures.model_validate_json("".join(_run_child("benchmarks.unpack_child", spec, None)))

    def convert(self, source: Path, sink: Sink, *, puts: int, size: int | None = None) -> Figures:
        """Convert an image, a directory or a bundle in its own process; `bundled_size` is what was sent."""
        spec = ConvertSpec(settings=self._settings(), source=str(source), endpoint_url=sink.url, puts=puts, size=size)
        return Figures.model_validate_json("".join(_run_child("benchmarks.convert_child", spec, sink)))

    def sdk_upload(self, source: Path, sink: Sink, *, puts: int) -> dict[str, float]:
        """Upload a file as blocks with the SDK alone, in its own process."""
        arguments = (str(source), sink.url, str(puts))
        told: dict[str, float] = json.loads("".join(_run_child("benchmarks.sdk_upload", None, sink, *arguments)))
        return told

    def tree(self, source: Path, size: int, *, image: Path | None = None) -> TreeFigures:
        """Read a tree as a volume of `size` bytes in its own process, into the image or nothing."""
        spec = TreeSpec(source=str(source), size=size, image=str(image) if image else None)
        return TreeFigures.model_validate_json("".join(_run_child("benchmarks.tree_child", spec, None)))

    def _settings(self) -> dict[str, Any]:
        return {"state_dir": str(self._directory / "user"), "max_image_size": LARGEST}


def _run_child(module: str, told: BaseModel | None, sink: Sink | None, *arguments: str) -> list[str]:
    """The lines that a child printed."""
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        input=told.model_dump_json() if told else "",
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parent.parent,
        env=_environ(sink.environ() if sink else {}),
    )
    if done.returncode:
        raise BenchmarkError(f"a job ended with {done.returncode}: {done.stderr[-2000:]}")
    return done.stdout.splitlines()


def _environ(changes: Mapping[str, str]) -> dict[str, str]:
    """This environment without anything that would change a job."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith(_PRIVATE)}
    return {**plain, **changes}
