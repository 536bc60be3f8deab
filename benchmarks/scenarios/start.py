"""The CPU seconds of short commands from their start to their end, beside Python itself doing nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from amistream.keys import CERTIFICATE_FILE, own_identity
from amistream.values import MIB
from benchmarks.bench import Bench, Scenario
from benchmarks.environ import plain_environ
from benchmarks.results import Column, Goal, Outcome
from benchmarks.timing import BenchmarkError, Cost, alternate, run_program

PYTHON = "python -c pass"
VERSION, HELP, COMPLETION = "--version", "--help", "completion"
JOBS, STATUS = "jobs", "status"
BUNDLE = "a bundle of 1 MiB, in-process"
GOALS = {VERSION: 3, HELP: 3, COMPLETION: 3, JOBS: 6, STATUS: 6, BUNDLE: 15}
"""Most CPU seconds, in those of Python."""
COLUMNS = (
    Column("cpu_ms", "CPU ms", ".0f"),
    Column("wall_ms", "wall ms", ".0f"),
    Column("cpu_ratio", "CPU / python", ".1f"),
)
NOTE = "goals hold the best run of each against the best of Python, whose site and venv are the same"
_PATIENCE_S = 60


def run(bench: Bench) -> Outcome:
    """Each round: every command once, with a daemon that has one ended job."""
    directory = bench.scratch / "start"
    directory.mkdir()
    (directory / "disk.img").write_bytes(os.urandom(MIB))
    command = Path(sys.executable).with_name("amistream")
    reach = ["--socket", str(directory / "socket")]
    outcome = Outcome("start", COLUMNS, {"kind": bench.inputs.kind, "size": MIB}, notes=[NOTE])
    environ = {
        **plain_environ(),
        "AMISTREAM_STATE_DIR": str(directory / "state"),
    }
    # Any certificate will do as EC2's: nobody opens these bundles.
    own_identity(directory / "ec2")
    bundling = [command, "bundle", directory / "disk.img", "--account", "123456789012", "--region", "eu-west-1"]
    bundling += ["--ec2-cert", directory / "ec2" / CERTIFICATE_FILE]
    completing = {"_AMISTREAM_COMPLETE": "bash", "COMP_WORDS": "amistream\nbundle\n--comp", "COMP_CWORD": "2"}

    def one(*argv: object, **more: str) -> Cost:
        return run_program([str(each) for each in argv], directory=directory, environ={**environ, **more})

    def bundle() -> Cost:
        number = len(list(directory.glob("out-*")))
        return one(*bundling, "--to", directory / f"out-{number}", "--in-process")

    with _daemon(command.with_name("amistreamd"), directory, environ):
        job_id = _job(bundling, directory, environ, reach)
        variants: dict[str, Callable[[], Cost]] = {
            PYTHON: partial(one, sys.executable, "-c", "pass"),
            VERSION: partial(one, command, "--version"),
            HELP: partial(one, command, "--help"),
            COMPLETION: partial(one, command, **completing),
            JOBS: partial(one, command, "jobs", *reach),
            STATUS: partial(one, command, "status", job_id, *reach),
            BUNDLE: bundle,
        }
        for number, costs in enumerate(alternate(bench.options.runs, variants), 1):
            bench.say(f"start: round {number} of {bench.options.runs}")
            for name, cost in costs.items():
                ratio = cost.cpu_s / costs[PYTHON].cpu_s
                outcome.add(name, {"cpu_ms": cost.cpu_s * 1e3, "wall_ms": cost.wall_s * 1e3, "cpu_ratio": ratio})
    for name, limit in GOALS.items():
        ratio = _best(outcome, name) / _best(outcome, PYTHON)
        outcome.goals.append(Goal(f"{name}, CPU in that of Python", ratio, limit))
    return outcome


def _best(outcome: Outcome, name: str) -> float:
    return min(run["cpu_ms"] for run in outcome.rows[name].runs)


@contextmanager
def _daemon(command: Path, directory: Path, environ: dict[str, str]) -> Iterator[None]:
    """Run a daemon; it is ready within the block."""
    socket, log = directory / "socket", directory / "daemon.log"
    with log.open("wb") as out:
        process = subprocess.Popen([command, "--socket", socket], env=environ, stdout=out, stderr=out)
    try:
        health = ["curl", "--silent", "--retry", "100", "--retry-delay", "0", "--retry-all-errors", "--max-time"]
        health += [str(_PATIENCE_S), "--unix-socket", str(socket), "http://localhost/v1/health"]
        if subprocess.run(health, stdout=subprocess.DEVNULL, check=False).returncode:
            raise BenchmarkError(f"the daemon does not answer: {log.read_text()[-800:]}")
        yield
    finally:
        process.terminate()
        process.wait()


def _job(bundling: list[object], directory: Path, environ: dict[str, str], reach: list[str]) -> str:
    """Let the daemon run a job to its end; returns its id."""
    words = [str(each) for each in (*bundling, "--to", directory / "by-daemon", *reach)]
    done = subprocess.run(words, env=environ, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchmarkError(f"the daemon's job failed: {done.stderr[-800:]}")
    listed = subprocess.run([words[0], "jobs", *reach], env=environ, capture_output=True, text=True, check=True)
    return listed.stdout.splitlines()[1].split()[0]


SCENARIO = Scenario("start", "the CPU seconds of short commands, beside Python doing nothing", "0.3 min", run)
