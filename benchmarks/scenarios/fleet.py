"""The rate of a fleet on one queue, and the requests that its jobs and its idle hosts cost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from amistream.keys import CERTIFICATE_FILE, own_identity
from amistream.values import MIB, manifest_name
from benchmarks.bench import Bench, Scenario
from benchmarks.environ import CREDENTIALS, plain_environ
from benchmarks.fleet_model import Assumptions, most_hosts, on_paper, table
from benchmarks.queue_endpoint import OBJECTS, REGION, STATS_PATH
from benchmarks.results import Column, Outcome
from benchmarks.timing import BenchmarkError

FLEETS = (1, 10, 100)
ON_PAPER = (1, 100, 1000, 10_000)
JOBS = 1000
BUCKET = "benchmark"
IDLE_S = 64.0
"""Three polls of 20 seconds, with their pauses."""
COLUMNS = (
    Column("jobs_per_s", "jobs/s", ".1f"),
    Column("calls_per_job", "queue calls / job"),
    Column("results_per_job", "result calls / job"),
    Column("cpu_ms_per_job", "CPU ms / job", ".1f"),
    Column("idle_per_hour", "idle calls / host and h", ".0f"),
)
MOST_CALLS, MOST_IDLE = 2, 200
_PATIENCE_S = 600.0
_EXTENSION = "ChangeMessageVisibilityBatch"
_ROOT = Path(__file__).parents[2]


def run(bench: Bench) -> Outcome:
    """Each round: fleets of several sizes verify a small bundle a thousand times; then they are left idle."""
    bundle = _bundle(bench)
    paper = Assumptions()
    notes = ["without extensions; daemons, endpoint and sender share the machine", *table(ON_PAPER, paper)]
    notes.append(f"on paper: jobs of {paper.job_s:g} s, {paper.jobs_at_once} at once on a host")
    notes.append(f"on paper: one queue has room for {most_hosts(paper):,} such hosts")
    outcome = Outcome("fleet", COLUMNS, {"kind": bench.inputs.kind, "jobs": JOBS}, notes=notes)
    for number in range(1, bench.options.runs + 1):
        bench.say(f"fleet: round {number} of {bench.options.runs}")
        for hosts in FLEETS:
            place = bench.scratch / f"fleet-{number}-{hosts}"
            outcome.add(_name(hosts), _measure(bundle, place, hosts))
    for hosts in FLEETS:
        outcome.goal(f"{_name(hosts)}, queue calls for a job", _name(hosts), "calls_per_job", MOST_CALLS)
        outcome.goal(f"{_name(hosts)}, idle calls in an hour", _name(hosts), "idle_per_hour", MOST_IDLE)
    for hosts in ON_PAPER[1:]:
        figures = on_paper(hosts, paper)
        outcome.add(f"{hosts:,} hosts, on paper", {"jobs_per_s": figures.jobs_per_hour / 3600})
    return outcome


def _name(hosts: int) -> str:
    return f"{hosts} {'daemon' if hosts == 1 else 'daemons'}"


def _bundle(bench: Bench) -> Path:
    """A bundle of a tiny volume."""
    volume, bundle = bench.scratch / "fleet.img", bench.scratch / "fleet-bundle"
    volume.write_bytes(os.urandom(MIB))
    own_identity(bench.scratch / "ec2")
    command = [str(Path(sys.executable).with_name("amistream")), "bundle", str(volume), "--to", str(bundle)]
    command += ["--in-process", "--account", "123456789012", "--region", REGION, "--part-size", "256KiB"]
    command += ["--ec2-cert", str(bench.scratch / "ec2" / CERTIFICATE_FILE)]
    environ = {**plain_environ(), "AMISTREAM_STATE_DIR": str(bench.scratch / "fleet-state")}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchmarkError(f"cannot make the bundle of the fleet: {done.stderr[-800:]}")
    return bundle


def _measure(bundle: Path, place: Path, hosts: int) -> dict[str, float]:
    with _running([sys.executable, "-m", "benchmarks.queue_endpoint"], plain_environ()) as (port, _):
        url = f"http://127.0.0.1:{port}"
        for path in bundle.iterdir():
            _ask(f"{url}/{BUCKET}/{path.name}", "PUT", path.read_bytes())
        command = [sys.executable, "-m", "benchmarks.fleet_hosts", str(place), str(hosts)]
        with _running(command, _environ(url)) as (_, pid):
            _wait(lambda: _calls(url)["ReceiveMessage"] >= hosts, "no daemon asks the queue")
            before, cpu, began = _calls(url), _cpu_s(pid), time.time()
            _send(url)
            _wait(lambda: len(_stats(url)["sent"].get("results", ())) >= JOBS, "jobs have no result")
            _wait(lambda: not _stats(url)["left"]["jobs"], "messages are left")
            cpu = _cpu_s(pid) - cpu
            asked = {name: count - before.get(name, 0) for name, count in _calls(url).items()}
            last = json.loads(_stats(url)["last"]["results"])
            if last["outcome"] != "done":
                raise BenchmarkError(f"a job of the fleet was {last['outcome']}: {last['error']['message']}")
            ended = max(_stats(url)["sent"]["results"])
            idle_before = _calls(url)
            time.sleep(IDLE_S)
            idle = sum(_calls(url).values()) - sum(idle_before.values())
    queue = asked["ReceiveMessage"] + asked["DeleteMessageBatch"]
    return {
        "jobs_per_s": JOBS / (ended - began),
        "calls_per_job": queue / JOBS,
        "results_per_job": (asked["SendMessageBatch"] - JOBS // 10) / JOBS,
        "extensions": asked.get(_EXTENSION, 0),
        "object_calls_per_job": asked[OBJECTS] / JOBS,
        "cpu_ms_per_job": cpu / JOBS * 1e3,
        "idle_per_hour": idle * 3600 / IDLE_S / hosts,
    }


def _environ(url: str) -> dict[str, str]:
    queue = f"{url}/123456789012"
    return {
        **plain_environ(),
        **CREDENTIALS,
        "AWS_REGION": REGION,
        "AWS_ENDPOINT_URL": url,
        "AMISTREAM_QUEUE_URL": f"{queue}/jobs",
        "AMISTREAM_RESULTS": f"sqs:{queue}/results",
        "AMISTREAM_QUEUE_SOURCES": f"s3://{BUCKET}",
    }


@contextmanager
def _running(command: list[str], environ: Mapping[str, str]) -> Iterator[tuple[str, int]]:
    """Run a helper until the block ends; gives its first line, and its process id."""
    process = subprocess.Popen(
        command, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=_ROOT
    )
    with process:
        assert process.stdout is not None  # noqa: S101 - for the type checker
        assert process.stdin is not None  # noqa: S101 - for the type checker
        line = process.stdout.readline().strip()
        if not line:
            raise BenchmarkError(f"cannot start {command[2]}: it ended at once")
        try:
            yield line, process.pid
        finally:
            process.stdin.close()
            process.wait()


def _send(url: str) -> None:
    request = {"manifest": f"s3://{BUCKET}/{manifest_name('image')}"}
    bodies = [
        json.dumps({"v": 1, "job": f"verify-{number}", "kind": "verify", "request": request}) for number in range(JOBS)
    ]
    for first in range(0, JOBS, 10):
        entries = [{"Id": str(n), "MessageBody": body} for n, body in enumerate(bodies[first : first + 10])]
        asked = {"QueueUrl": f"{url}/123456789012/jobs", "Entries": entries}
        _ask(url, "POST", json.dumps(asked).encode(), {"X-Amz-Target": "AmazonSQS.SendMessageBatch"})


def _stats(url: str) -> Any:
    return json.loads(_ask(f"{url}{STATS_PATH}", "GET"))


def _calls(url: str) -> dict[str, int]:
    return {"ReceiveMessage": 0, **_stats(url)["calls"]}


def _ask(url: str, method: str, body: bytes | None = None, headers: Mapping[str, str] | None = None) -> bytes:
    request = urllib.request.Request(url, data=body, method=method, headers=dict(headers or {}))  # noqa: S310 - our own
    with urllib.request.urlopen(request) as reply:  # noqa: S310 - our own URL
        answer: bytes = reply.read()
    return answer


def _wait(condition: Any, trouble: str) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while not condition():
        if time.monotonic() > deadline:
            raise BenchmarkError(f"{trouble} after {_PATIENCE_S:g} s")
        time.sleep(0.2)


def _cpu_s(pid: int) -> float:
    """CPU seconds of the children of a process so far."""
    ticks = 0
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        fields = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


SCENARIO = Scenario("fleet", "1, 10 and 100 daemons on one queue: jobs/s, requests, idle requests", "13 min", run)
