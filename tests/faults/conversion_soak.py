"""Kills the daemon at chosen moments of conversions, and judges what comes of them.

    python tests/faults/conversion_soak.py
    python tests/faults/conversion_soak.py --kinds 'convert bundle' --rounds 3

Each moment is a request: before it is seen, or after it was done and before its answer. The daemon is killed there by
SIGKILL and started again, and goes on by itself. With `--rounds` it is killed that often at the same kind of request.
Then the job must be done, with exactly one completed snapshot that has the image's bytes, one AMI and nothing else, and
no more blocks may have been put than the image has, those that were not entered at the kill, and those in flight.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from amistream.stages.put import ENTERED_AT_ONCE
from faults.script import Script, working_directory
from jobs.converting import Conversions, make_disk
from support.commands import COMMANDS
from support.daemons import owner
from support.ebs_endpoint import run_ebs
from support.keys import make_keys
from support.processes import Killable
from support.unix_http import ask, is_healthy, wait_ended

if TYPE_CHECKING:
    from support.ebs_endpoint import EbsEndpoint
    from support.keys import KeyRing

PATIENCE_S = 120.0
PUTS = 3
KINDS = ("convert", "convert bundle")
MOMENTS = (
    ("StartSnapshot", 1),
    ("PutSnapshotBlock", 1),
    ("PutSnapshotBlock", 9),
    ("PutSnapshotBlock", 17),
    ("PutSnapshotBlock", 25),
    ("CompleteSnapshot", 1),
    ("DescribeSnapshots", 2),
    ("ListSnapshotBlocks", 2),
    ("RegisterImage", 2),
    ("DescribeImages", 2),
)
"""Operations, and which request of it. The first look at snapshots, AMIs and blocks, and registration, is a check."""
SIDES = ("pause", "pause_after")


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """The moments: each operation on both sides, for each kind of job."""

    kinds: Sequence[str] = KINDS
    moments: Sequence[tuple[str, int]] = MOMENTS
    sides: Sequence[str] = SIDES
    rounds: int = 1


@dataclass(kw_only=True)
class Verdict:
    """The counts of the soak."""

    kills: int = 0
    jobs: int = 0
    blocks: int = 0
    puts: int = 0
    missed: list[str] = field(default_factory=list)
    """Moments that did not come."""


class ConversionSoak:
    """A soak in one directory."""

    def __init__(self, directory: Path, endpoint: EbsEndpoint, keys: KeyRing, disk: Path | None = None) -> None:
        self._directory = directory
        self._endpoint = endpoint
        self._keys = keys
        self._socket = directory / "amistream.sock"
        self._starts = 0
        self._conversions = Conversions(
            disk=disk or make_disk(directory / "disk.img"), endpoint=endpoint, directory=directory
        )
        self.verdict = Verdict()

    def run(self, wishes: Wishes) -> Verdict:
        for kind in wishes.kinds:
            body = self._body(kind)
            for operation, nth in wishes.moments:
                for side in wishes.sides:
                    self._try(body, operation, nth, side, wishes.rounds)
        return self.verdict

    def _try(self, body: dict[str, Any], operation: str, nth: int, side: str, rounds: int) -> None:
        """Kill the daemon at one moment, and judge the job once it has ended."""
        endpoint, before = self._endpoint, len(self._conversions.puts())
        job_id, kills = "", 0
        for _ in range(rounds):
            endpoint.fault(operation, side, nth=nth)
            with self._daemon() as daemon:
                job_id = job_id or self._ask("POST", "/v1/jobs", body)["id"]
                if self._comes(job_id):
                    daemon.end(signal.SIGKILL, twice=False)
                    kills += 1
            endpoint.clear_faults()
            endpoint.let_go()
        with self._daemon():
            job = self._wait_ended(job_id)
        if not kills:
            self.verdict.missed.append(f"{operation} {nth} {side}")
        self._judge(job, before, kills)

    def _judge(self, job: dict[str, Any], before: int, kills: int) -> None:
        assert job["state"] == "done", job
        result, endpoint = job["result"], self._endpoint
        (snapshot,), (image,) = endpoint.snapshots(), endpoint.images()
        assert (snapshot["id"], snapshot["state"]) == (result["snapshot_id"], "completed")
        assert snapshot["distinct"] == result["blocks"]
        assert image["imageId"] == result["image_id"]
        assert endpoint.orphans() == []
        self._conversions.holds(snapshot["id"])
        puts, blocks = len(self._conversions.puts()) - before, len(self._conversions.blocks)
        assert puts <= blocks + kills * (ENTERED_AT_ONCE + PUTS), (puts, blocks, kills)
        self.verdict.kills += kills
        self.verdict.jobs += 1
        self.verdict.blocks += blocks
        self.verdict.puts += puts
        with endpoint.blocking_client("ec2") as ec2:
            ec2.deregister_image(ImageId=image["imageId"])
            ec2.delete_snapshot(SnapshotId=snapshot["id"])

    def _body(self, kind: str) -> dict[str, Any]:
        body = {
            "kind": "convert",
            "source": str(self._conversions.disk),
            "endpoint_url": self._endpoint.url,
            "ami_name": "web 1",
            "puts": PUTS,
        }
        if kind == "convert bundle":
            body |= {"source": str(self._bundle()), "private_key": str(self._keys.user.key)}
        return body

    def _bundle(self) -> Path:
        """Bundle the disk into a directory; returns the manifest."""
        to = self._directory / "bundle"
        with self._daemon():
            body = {"source": str(self._conversions.disk), "destinations": [str(to)], "part_size": "1MiB"}
            job_id = self._ask("POST", "/v1/jobs", {**body, **owner(self._keys)})["id"]
            self._wait_ended(job_id)
        return to / "image.manifest.xml"

    @contextmanager
    def _daemon(self) -> Iterator[Killable]:
        """Run a daemon; at the end of the block it is ended if it is not yet."""
        self._starts += 1
        environ = {
            "PATH": "/usr/bin:/bin",
            "HOME": str(self._directory),
            **self._endpoint.environ(),
            "AMISTREAM_BACKOFF_BASE_S": "0.05",
            "AMISTREAM_REGISTER_POLL_S": "0.02",
        }
        argv = [str(COMMANDS / "amistreamd"), "--socket", str(self._socket)]
        argv += ["--state-dir", str(self._directory / "state")]
        self._socket.unlink(missing_ok=True)
        log = self._directory / f"daemon-{self._starts:03d}.log"
        process = Killable(argv, log=log, environ=environ, directory=self._directory, forked=True)
        try:
            process.wait_ready(partial(is_healthy, self._socket))
            yield process
        finally:
            process.stop()

    def _comes(self, job_id: str) -> bool:
        """Wait until the fault holds a request; false if the job ends before."""
        deadline = time.monotonic() + PATIENCE_S
        while not self._endpoint.state()["paused"]:
            assert time.monotonic() < deadline, self._ask("GET", f"/v1/jobs/{job_id}")
            if _ended(self._ask("GET", f"/v1/jobs/{job_id}")):
                return False
            time.sleep(0.01)
        return True

    def _wait_ended(self, job_id: str) -> dict[str, Any]:
        return wait_ended(self._socket, job_id, PATIENCE_S)

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        return ask(self._socket, method, path, body)


def _ended(job: dict[str, Any]) -> bool:
    return job["state"] in {"done", "refused", "failed", "cancelled", "interrupted"}


def soak(wishes: Wishes, directory: Path, endpoint: EbsEndpoint, keys: KeyRing, disk: Path | None = None) -> Verdict:
    """Run a soak. Raises AssertionError when something is not as it must be."""
    return ConversionSoak(directory, endpoint, keys, disk).run(wishes)


def main() -> None:
    script = Script(__doc__)
    script.add_argument("--kinds", default=",".join(KINDS), metavar="KIND,..", help=f"of {', '.join(KINDS)}")
    script.add_argument("--rounds", type=int, default=1, help="kills of each job (default: 1)")
    script.add_directory()
    options = script.parse_args()
    with ExitStack() as stack:
        directory = stack.enter_context(working_directory("convert-soak", options.directory))
        endpoint = stack.enter_context(stack.enter_context(run_ebs()).account())
        wishes = Wishes(kinds=options.kinds.split(","), rounds=options.rounds)
        script.put(soak(wishes, directory, endpoint, make_keys(directory)))


if __name__ == "__main__":
    main()
