"""Lets a queue answer nothing for a while, and reads in the record of the bucket when a daemon puts something.

    python tests/faults/fleet_silence.py --visibility 30 --silent 60
    python tests/faults/fleet_silence.py --visibility 300 --silent 600

The daemon bundles two volumes for messages of the queue, slowly, so that puts come all the time. Requests to the queue
pass one proxy, those to the bucket another, and both record when each came. The queue's last answer that held a message
says when its lease ends: after that, and until the queue answers again, nothing may be put or removed. In the end both
jobs must be done, and their bundles must be right.
"""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from faults.script import Script, working_directory
from support.buckets import create_bucket, download_bundle, list_keys, open_uploads, remove_bucket
from support.daemons import owner
from support.endpoints import run_ministack
from support.fleet_hosts import Host
from support.fleet_queues import open_queues
from support.keys import make_keys
from support.proxy import Fault, FaultProxy, StallBody
from support.referee import check_bundle
from support.volumes import random_image

if TYPE_CHECKING:
    from support.endpoints import Endpoint
    from support.fleet_queues import Queues
    from support.keys import KeyRing

BUCKET = "fleet-silence"
JOBS = 2
BEFORE_S = 5.0
"""Seconds of work before the silence."""
PATIENCE_S = 120.0


@dataclass(kw_only=True)
class Verdict:
    """Times in seconds from the begin of the silence."""

    leases_ended: float = 0.0
    last_change: float = 0.0
    """Time of the last object that was put or removed before the queue answered again."""
    first_change_after: float = 0.0
    changes_before: int = 0
    changes_in_silence: int = 0
    attempts: tuple[int, ...] = ()


def silence(
    directory: Path, endpoint: Endpoint, queues: Queues, keys: KeyRing, *, visibility_s: int, silent_s: float
) -> Verdict:
    """Raises AssertionError if anything was changed after the end of the leases, or if a job is not done."""
    verdict = Verdict()
    size = 256 << 10
    # The work takes longer than the leases, but not much longer than the silence.
    rate = 48 << 10
    images = [
        random_image(directory / f"disk-{n}.img", int(visibility_s * 1.2 + 20) * rate, seed=n) for n in range(JOBS)
    ]
    host = Host(name="host", directory=directory / "host")
    create_bucket(endpoint, BUCKET)
    try:
        with FaultProxy(endpoint) as to_queue, FaultProxy(endpoint) as to_bucket:
            settings = queues.settings(
                queue_url=queues.jobs.replace(endpoint.url, to_queue.url),
                queue_visibility_s=visibility_s,
                queue_jobs=JOBS,
                source_roots=f"{directory}:{keys.user.key.parent}",
                part_size=size,
                upload_concurrency=2,
            )
            del settings["endpoint_url"]
            host.start(to_bucket.endpoint, settings)
            host.wait_ready()
            try:
                for number, image in enumerate(images):
                    request = {"source": str(image), "destinations": [f"s3://{BUCKET}/{number}"], **owner(keys)}
                    queues.send(f"job-{number}", "bundle", **request, register_image=False, limit_upload=rate)
                _wait_parts(to_bucket, JOBS)
                time.sleep(BEFORE_S)
                _hush(verdict, to_queue, to_bucket, visibility_s, silent_s)
                results = queues.wait_results(JOBS, patience_s=PATIENCE_S + 3 * visibility_s)
            finally:
                host.running.stop()
            assert {each["outcome"] for each in results} == {"done"}, results
            verdict.attempts = tuple(sorted(each["attempt"] for each in results))
            assert min(verdict.attempts) > 1
            for number, image in enumerate(images):
                got = directory / "got" / str(number)
                download_bundle(endpoint, BUCKET, f"{number}/", got)
                check_bundle(got, image, keys.user.key, keys.user.certificate)
            assert [key for key in list_keys(endpoint, BUCKET) if "claim" in key] == []
            assert open_uploads(endpoint, BUCKET) == []
            assert queues.left() == 0
    finally:
        remove_bucket(endpoint, BUCKET)
    return verdict


def _wait_parts(to_bucket: FaultProxy, count: int) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while len({each.path.rpartition("/")[0] for each in to_bucket.seen("PUT", ".*part.*")}) < count:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def _hush(verdict: Verdict, to_queue: FaultProxy, to_bucket: FaultProxy, visibility_s: int, silent_s: float) -> None:
    fault = Fault(action=StallBody(after=0), method="POST", times=None)
    verdict.changes_before = len(_changes(to_bucket))
    began = time.monotonic()
    to_queue.add(fault)
    time.sleep(silent_s)
    answered = [each for each in to_queue.requests if each.status == 200 and each.fault is None]
    ended = time.monotonic()
    to_queue.mend(fault)
    to_queue.hang_up()
    # The endpoint holds a message from the moment at which it answers, a little later than the request came.
    lease_ends = max(each.came_at for each in answered) + visibility_s
    assert lease_ends < ended
    changes = [each for each in _changes(to_bucket)[verdict.changes_before :] if each < ended]
    verdict.changes_in_silence = len(changes)
    verdict.leases_ended = round(lease_ends - began, 1)
    verdict.last_change = round(max(changes) - began, 1)
    assert max(changes) < lease_ends, verdict
    deadline = time.monotonic() + PATIENCE_S + 2 * visibility_s
    while not (later := [each for each in _changes(to_bucket) if each > ended]):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    verdict.first_change_after = round(later[0] - began, 1)


def _changes(to_bucket: FaultProxy) -> list[float]:
    """Times of the requests that put or remove an object."""
    return [each.came_at for each in to_bucket.seen("PUT|POST|DELETE")]


def main() -> None:
    script = Script(__doc__)
    script.add_visibility(30)
    script.add_argument("--silent", type=float, default=60.0, metavar="S", help="seconds of silence (default: 60)")
    options = script.parse_args()
    with ExitStack() as stack:
        directory = stack.enter_context(working_directory("fleet-silence"))
        endpoint = stack.enter_context(run_ministack())
        queues = stack.enter_context(open_queues(endpoint))
        times = {"visibility_s": options.visibility, "silent_s": options.silent}
        script.put(silence(directory, endpoint, queues, make_keys(directory), **times))


if __name__ == "__main__":
    main()
