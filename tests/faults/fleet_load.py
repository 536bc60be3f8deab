"""Gives a fleet of daemons many small jobs of one queue, and measures its rate, its memory and its requests.

    python tests/faults/fleet_load.py --daemons 10 --jobs 5000
    python tests/faults/fleet_load.py --daemons 3 --jobs 0 --idle 600

Every job verifies a bundle of three parts that is in a bucket. Requests to the queues go through a proxy that counts
them; those to the bucket do not. At the end every job must have one result and be done, and no message may be left. The
rate of the last thousand jobs must not be far below that of the first, the memory of the daemons must not grow with
the jobs, a job may take two requests to its queue beside the extensions, and an idle daemon may ask 200 times an hour.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bundles.made import older_bundle, put_files
from faults.script import Script, working_directory
from support.buckets import create_bucket, remove_bucket
from support.endpoints import run_ministack
from support.fleet_hosts import Host
from support.fleet_queues import open_queues
from support.keys import make_keys
from support.proxy import FaultProxy

if TYPE_CHECKING:
    from support.endpoints import Endpoint
    from support.fleet_queues import Queues
    from support.keys import KeyRing

BUCKET = "fleet-load"
SIZES = [3000, 3000, 100]
PATIENCE_S = 120.0
SHARE = 5
"""The first and the last of so many parts of the jobs are compared."""
MOST_SLOWER = 1.25
MOST_GROWTH = 8 << 20
"""Bytes of memory by which a daemon may grow between the first and the last part."""
MOST_CALLS = 2.0
MOST_IDLE = 200.0
EXTENSION = "ChangeMessageVisibilityBatch"


@dataclass(kw_only=True)
class Figures:
    """The measurements of one run."""

    daemons: int
    jobs: int
    seconds: float = 0.0
    jobs_per_s: float = 0.0
    first_jobs_per_s: float = 0.0
    last_jobs_per_s: float = 0.0
    first_mib: float = 0.0
    """Memory of a daemon that it shares with no other, on average, when the first part of the jobs is done."""
    last_mib: float = 0.0
    calls: Counter[str] = field(default_factory=Counter)
    calls_per_job: float = 0.0
    """To the queue of jobs, from the first message on, without the extensions."""
    result_calls_per_job: float = 0.0
    idle_calls_per_hour: float = 0.0
    """Of one daemon."""


class FleetLoad:
    """A run in one directory, with a bucket of its own."""

    def __init__(self, directory: Path, endpoint: Endpoint, queues: Queues, keys: KeyRing, figures: Figures) -> None:
        self._directory = directory
        self._endpoint = endpoint
        self._queues = queues
        self._keys = keys
        self._figures = figures
        self._proxy = FaultProxy(endpoint)
        self._hosts = [Host(name=f"host-{n:03d}", directory=directory / f"h{n}") for n in range(figures.daemons)]
        self._done_at: list[float] = []
        self._results: Counter[str] = Counter()

    def run(self, *, queue_jobs: int, visibility_s: int, idle_s: float) -> None:
        create_bucket(self._endpoint, BUCKET)
        try:
            with self._proxy:
                settings = self._queues.settings(
                    queue_url=self._queues.jobs.replace(self._endpoint.url, self._proxy.url),
                    results=f"sqs:{self._queues.results.replace(self._endpoint.url, self._proxy.url)}",
                    queue_visibility_s=visibility_s,
                    queue_jobs=queue_jobs,
                    max_jobs=queue_jobs,
                )
                del settings["endpoint_url"]
                try:
                    for host in self._hosts:
                        host.start(self._endpoint, settings)
                    for host in self._hosts:
                        host.wait_ready()
                    if self._figures.jobs:
                        self._work()
                    if idle_s:
                        self._idle(idle_s)
                finally:
                    for host in self._hosts:
                        if host.process is not None:
                            host.process.stop()
        finally:
            remove_bucket(self._endpoint, BUCKET)

    def _work(self) -> None:
        figures = self._figures
        made = older_bundle(self._directory / "old", self._keys, SIZES)
        put_files(self._endpoint, BUCKET, made.parent)
        self._wait_polls()
        before = len(self._proxy.requests)
        started = time.time()
        self._send(f"s3://{BUCKET}/{made.name}")
        part = figures.jobs // SHARE
        self._take_results(part)
        figures.first_mib = self._memory()
        self._take_results(figures.jobs)
        figures.last_mib = self._memory()
        self._wait_empty()
        figures.calls = Counter(self._calls(before))
        figures.seconds = round(max(self._done_at) - started, 1)
        figures.jobs_per_s = round(figures.jobs / figures.seconds, 1)
        figures.first_jobs_per_s = self._rate(0, part)
        figures.last_jobs_per_s = self._rate(figures.jobs - part, figures.jobs)
        of_results = figures.calls["SendMessageBatch"]
        figures.result_calls_per_job = round(of_results / figures.jobs, 2)
        of_jobs = figures.calls.total() - figures.calls[EXTENSION] - of_results
        figures.calls_per_job = round(of_jobs / figures.jobs, 2)

    def _idle(self, seconds: float) -> None:
        self._wait_polls()
        before = len(self._proxy.requests)
        time.sleep(seconds)
        asked = len(self._calls(before))
        self._figures.idle_calls_per_hour = round(asked * 3600 / seconds / len(self._hosts), 1)

    def _wait_polls(self) -> None:
        """Wait until every daemon has asked the queue."""
        deadline = time.monotonic() + PATIENCE_S
        while len(self._calls(0)) < 2 * len(self._hosts):
            assert time.monotonic() < deadline, self._calls(0)
            time.sleep(0.1)

    def _send(self, manifest: str) -> None:
        bodies = [
            json.dumps({"v": 1, "job": f"verify-{n}", "kind": "verify", "request": {"manifest": manifest}})
            for n in range(self._figures.jobs)
        ]
        with self._endpoint.blocking_client("sqs") as sqs:
            for first in range(0, len(bodies), 10):
                entries = [{"Id": str(n), "MessageBody": body} for n, body in enumerate(bodies[first : first + 10])]
                assert not sqs.send_message_batch(QueueUrl=self._queues.jobs, Entries=entries).get("Failed")

    def _take_results(self, count: int) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while len(self._done_at) < count:
            taken = self._queues.take_results(wait_s=2)
            for result in taken:
                assert result["outcome"] == "done", result
                self._results[result["job"]] += 1
                self._done_at.append(datetime.fromisoformat(result["ended_at"]).timestamp())
            if taken:
                deadline = time.monotonic() + PATIENCE_S
                self._say()
            assert time.monotonic() < deadline, f"{len(self._done_at)} results, {self._queues.left()} messages left"

    def _wait_empty(self) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while self._queues.left():
            assert time.monotonic() < deadline, self._queues.left()
            time.sleep(0.2)
        assert self._queues.take_results() == []
        assert set(self._results.values()) == {1}, self._results.most_common(3)
        assert len(self._results) == self._figures.jobs

    def _rate(self, first: int, last: int) -> float:
        times = sorted(self._done_at)[first:last]
        return round((len(times) - 1) / max(0.001, times[-1] - times[0]), 1)

    def _memory(self) -> float:
        return round(sum(host.memory() for host in self._hosts) / len(self._hosts) / (1 << 20), 1)

    def _calls(self, first: int) -> list[str]:
        targets = (each.headers.get("x-amz-target", "") for each in self._proxy.requests[first:])
        return [each.rpartition(".")[2] for each in targets]

    def _say(self) -> None:
        if len(self._done_at) // 500 != getattr(self, "_said", 0):
            self._said = len(self._done_at) // 500
            print(f"{len(self._done_at)} results", file=sys.stderr)  # noqa: T201 - progress


def measure(directory: Path, endpoint: Endpoint, keys: KeyRing, figures: Figures, **options: Any) -> None:
    """Fill in the figures. Raises AssertionError if a job is lost or done twice."""
    with open_queues(endpoint) as queues:
        FleetLoad(directory, endpoint, queues, keys, figures).run(**options)


def judge(figures: Figures) -> None:
    """Raise AssertionError for figures that are not as they must be."""
    if figures.jobs:
        assert figures.first_jobs_per_s < MOST_SLOWER * figures.last_jobs_per_s, figures
        assert figures.last_mib - figures.first_mib < MOST_GROWTH >> 20, figures
        assert figures.calls_per_job <= MOST_CALLS, figures
    assert figures.idle_calls_per_hour < MOST_IDLE, figures


def main() -> None:
    script = Script(__doc__)
    script.add_argument("--daemons", type=int, default=10)
    script.add_argument("--jobs", type=int, default=5000)
    script.add_argument("--queue-jobs", type=int, default=2, help="of each daemon at once (default: 2)")
    script.add_visibility(60)
    script.add_argument("--idle", type=float, default=0.0, metavar="S", help="look at idle daemons for so long")
    options = script.parse_args()
    figures = Figures(daemons=options.daemons, jobs=options.jobs)
    with ExitStack() as stack:
        directory = stack.enter_context(working_directory("fleet-load"))
        endpoint = stack.enter_context(run_ministack())
        measure(
            directory,
            endpoint,
            make_keys(directory),
            figures,
            queue_jobs=options.queue_jobs,
            visibility_s=options.visibility,
            idle_s=options.idle,
        )
    script.put(figures)
    judge(figures)


if __name__ == "__main__":
    main()
