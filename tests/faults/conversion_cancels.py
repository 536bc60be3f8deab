"""Cancels conversions of a daemon at random moments, and judges what is left of them.

    python tests/faults/conversion_cancels.py --cancels 20 --seed 1

One daemon takes all of the conversions, of a disk and of a bundle in turn. Each is cancelled at a random moment of the
time that a whole one takes; some while the endpoint holds a request, which goes on a moment later, or, a put, after the
job's end, as one that a network delayed. Every job must end cancelled and not resumable. No snapshot and no AMI may be
left, no open file of the job and no more threads than whole conversions leave. At last the daemon must convert once
more, and end at SIGTERM.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections import Counter
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from faults.conversion_soak import KINDS, ConversionSoak
from faults.script import Script, working_directory
from support.ebs_endpoint import run_ebs
from support.keys import make_keys
from support.processes import Killable

if TYPE_CHECKING:
    from support.ebs_endpoint import EbsEndpoint
    from support.keys import KeyRing

WHOLE = 3
"""Conversions of each kind that are let through first: the daemon has all its threads after them."""
REQUEST_S = 0.06
"""Requests take so long, that cancels come between them."""
LONGEST_HELD_S = 0.4
SLOW = ("StartSnapshot", "PutSnapshotBlock", "CompleteSnapshot", "RegisterImage", "DescribeImages")


@dataclass(kw_only=True)
class Score:
    """The counts of a soak."""

    cancels: int = 0
    too_late: int = 0
    """Jobs that were done before their cancel."""
    states_at_cancel: Counter[str] = field(default_factory=Counter)
    held: Counter[str] = field(default_factory=Counter)
    """Requests that went on after the cancel, by operation."""
    longest_s: float = 0.0
    """From a cancel to the end of its job."""
    threads: tuple[int, int] = (0, 0)
    """After the whole conversions, and the most after a cancel."""


class Cancels(ConversionSoak):
    """A soak in one directory."""

    def __init__(self, directory: Path, endpoint: EbsEndpoint, keys: KeyRing, seed: int) -> None:
        super().__init__(directory, endpoint, keys)
        self._dice = random.Random(seed)
        self.score = Score()

    def cancel(self, cancels: int) -> Score:
        bodies = [self._body(kind) for kind in KINDS]
        self._endpoint.set(latency=dict.fromkeys(SLOW, REQUEST_S))
        with self._daemon() as daemon:
            lengths = [min(self._whole(body) for _ in range(WHOLE)) for body in bodies]
            threads = most = _threads(daemon)
            while self.score.cancels < cancels:
                number = (self.score.cancels + self.score.too_late) % len(bodies)
                self._one(bodies[number], lengths[number])
                self._nothing_open(daemon)
                most = max(most, _threads(daemon))
                # A thread for short calls may come late; those of a job are two or more.
                assert most <= threads + 1, self.score
            self._whole(bodies[0])
            self.score.threads = threads, most
            daemon.end(signal.SIGTERM, twice=False)
        return self.score

    def _whole(self, body: dict[str, Any]) -> float:
        """Let a conversion end, and remove what it made; returns its seconds."""
        started = time.monotonic()
        job_id = self._ask("POST", "/v1/jobs", body)["id"]
        job = self._wait_ended(job_id)
        took_s = time.monotonic() - started
        assert job["state"] == "done", job
        self._conversions.holds(job["result"]["snapshot_id"])
        self._clear()
        return took_s

    def _one(self, body: dict[str, Any], length_s: float) -> None:
        """Cancel one conversion."""
        held = self._dice.choice(SLOW) if self._dice.random() < 0.4 else ""
        if held:
            self._endpoint.fault(held, "pause", nth=self._dice.randint(1, 12) if held == "PutSnapshotBlock" else 1)
        job_id = self._ask("POST", "/v1/jobs", body)["id"]
        time.sleep(self._dice.uniform(0, length_s))  # the soak's own moment, not a synchronisation
        state, started = self._ask("GET", f"/v1/jobs/{job_id}")["state"], time.monotonic()
        with suppress(AssertionError):  # it has ended since
            self._ask("DELETE", f"/v1/jobs/{job_id}")
        if held != "PutSnapshotBlock":
            time.sleep(self._dice.uniform(0, LONGEST_HELD_S))
            self._let_go(held)
        job = self._wait_ended(job_id)
        self.score.longest_s = max(self.score.longest_s, round(time.monotonic() - started, 2))
        self._let_go(held)
        if job["state"] == "done":
            self.score.too_late += 1
            self._clear()
            return
        assert (job["state"], job["resumable"]) == ("cancelled", False), job
        assert self._conversions.left() == [], job
        self.score.cancels += 1
        self.score.states_at_cancel[state] += 1

    def _let_go(self, held: str) -> None:
        self.score.held[held] += self._endpoint.state()["paused"]
        self._endpoint.clear_faults()
        self._endpoint.let_go()

    def _clear(self) -> None:
        endpoint = self._endpoint
        with endpoint.blocking_client("ec2") as ec2:
            for image in endpoint.images():
                ec2.deregister_image(ImageId=image["imageId"])
            for snapshot in endpoint.snapshots():
                ec2.delete_snapshot(SnapshotId=snapshot["id"])

    def _nothing_open(self, daemon: Killable) -> None:
        """Assert that the daemon has neither the disk nor a part of the bundle open."""
        for descriptor in Path(f"/proc/{daemon.pid}/fd").iterdir():
            with suppress(FileNotFoundError):
                target = descriptor.readlink()
                assert target != self._conversions.disk, self.score
                assert target.parent != self._directory / "bundle", self.score


def _threads(daemon: Killable) -> int:
    return len(os.listdir(f"/proc/{daemon.pid}/task"))  # noqa: PTH208 - their number alone


def main() -> None:
    script = Script(__doc__)
    script.add_argument("--cancels", type=int, default=20)
    script.add_seed()
    script.add_directory()
    options = script.parse_args()
    with ExitStack() as stack:
        directory = stack.enter_context(working_directory("cancels", options.directory))
        endpoint = stack.enter_context(stack.enter_context(run_ebs()).account())
        script.put(
            Cancels(directory, endpoint, make_keys(directory), options.seed).cancel(options.cancels), seed=options.seed
        )


if __name__ == "__main__":
    main()
