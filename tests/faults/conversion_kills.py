"""Kills the daemon at random moments of conversions, while puts arrive late and disks change; judges what comes of it.

    python tests/faults/conversion_kills.py --kills 100 --seed 1
    python tests/faults/conversion_kills.py --kills 40 --longest 8

One conversion after the other, of a disk or of a bundle. The daemon is started and killed by SIGKILL a random moment
later, again and again. Some puts are held by the endpoint, and go on during a later run of the daemon, as requests that
a network delayed; some disks are changed between two runs. At last the daemon is left alone. Then the job must be done,
with one completed snapshot that has the bytes of one of the disk's versions, one AMI and nothing else. If a late put of
a former version made EBS refuse the completion, the job must have failed, and nothing may be left.
"""

from __future__ import annotations

import random
import shutil
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

from amistream.ports.snapshots import BLOCK
from faults.conversion_soak import KINDS, ConversionSoak
from faults.script import Script, working_directory
from support.ebs_endpoint import run_ebs
from support.keys import make_keys

if TYPE_CHECKING:
    from support.ebs_endpoint import EbsEndpoint
    from support.keys import KeyRing

PUT_S = 0.06
"""Each put takes so long, that kills come between puts."""


@dataclass(kw_only=True)
class Score:
    """The counts of a soak."""

    kills: int = 0
    states_at_kill: Counter[str] = field(default_factory=Counter)
    jobs: Counter[str] = field(default_factory=Counter)
    """By their end."""
    late_puts: int = 0
    changes: int = 0
    blocks: int = 0
    puts: int = 0


class Kills(ConversionSoak):
    """A soak in one directory."""

    def __init__(self, directory: Path, endpoint: EbsEndpoint, keys: KeyRing, seed: int, longest_run_s: float) -> None:
        super().__init__(directory, endpoint, keys)
        self._dice = random.Random(seed)
        self._longest_run_s = longest_run_s
        self._versions: list[Path] = []
        self.score = Score()

    def kill(self, kills: int) -> Score:
        bodies = [self._body(kind) for kind in KINDS]
        self._endpoint.set(latency={"PutSnapshotBlock": PUT_S, "CompleteSnapshot": PUT_S, "RegisterImage": PUT_S})
        while self.score.kills < kills:
            kind = self.score.jobs.total() % (len(bodies) + 1)
            self._one(bodies[min(kind, 1)], changes=kind == 0, most=kills - self.score.kills)
        return self.score

    def _one(self, body: dict[str, Any], *, changes: bool, most: int) -> None:
        """Bring one job to its end by way of kills."""
        disk, before = self._conversions.disk, len(self._conversions.puts())
        self._versions = [self._conversions.copy("version-0.img")]
        job_id = ""
        for number in range(1, self._dice.randint(3, 12) + 1):
            if number > most:
                break
            if self._dice.random() < 0.4:
                self._endpoint.fault("PutSnapshotBlock", "pause", nth=self._dice.randint(1, 12))
            with self._daemon() as daemon:
                job_id = job_id or self._ask("POST", "/v1/jobs", body)["id"]
                self._wait(self._dice.uniform(0, self._longest_run_s))
                state = self._ask("GET", f"/v1/jobs/{job_id}")["state"]
                daemon.end(signal.SIGKILL, twice=False)
            self.score.kills += 1
            self.score.states_at_kill[state] += 1
            if state in {"done", "failed"}:
                break
            if changes and self._dice.random() < 0.5:
                self._change(disk, number)
        self._endpoint.clear_faults()
        with self._daemon():
            self._let_go()
            job = self._wait_ended(job_id)
        self._let_go()
        self._judge_one(job)
        self.score.blocks += len(self._conversions.blocks)
        self.score.puts += len(self._conversions.puts()) - before

    def _wait(self, seconds: float) -> None:
        """Wait, and let the puts that are held go on somewhere on the way."""
        share = self._dice.random()
        time.sleep(seconds * share)
        if self._dice.random() < 0.7:
            self._let_go()
        time.sleep(seconds * (1 - share))

    def _let_go(self) -> None:
        self.score.late_puts += self._endpoint.state()["paused"]
        self._endpoint.let_go()

    def _change(self, disk: Path, number: int) -> None:
        """Write other bytes, or zeros, into some blocks of the disk."""
        self.score.changes += 1
        with disk.open("r+b") as file:
            for block in self._dice.sample(self._conversions.blocks[1:], 6):
                file.seek(block * BLOCK)
                file.write(bytes(BLOCK) if self._dice.random() < 0.2 else self._dice.randbytes(2000))
            file.truncate(self._versions[0].stat().st_size)
        self._versions.append(self._conversions.copy(f"version-{number}.img"))

    def _judge_one(self, job: dict[str, Any]) -> None:
        endpoint = self._endpoint
        self.score.jobs[job["state"]] += 1
        if job["state"] == "failed" and len(self._versions) > 1:
            assert job["error"]["code"].startswith(("aws.ValidationException", "snapshot.failed")), job
            assert not job["resumable"], job
            assert self._conversions.left() == [], job
        else:
            assert job["state"] == "done", job
            (snapshot,), (image,) = endpoint.snapshots(), endpoint.images()
            assert (snapshot["id"], snapshot["state"]) == (job["result"]["snapshot_id"], "completed")
            assert image["imageId"] == job["result"]["image_id"]
            assert endpoint.orphans() == []
            assert any(self._is(snapshot["id"], version) for version in self._versions), job
            with endpoint.blocking_client("ec2") as ec2:
                ec2.deregister_image(ImageId=image["imageId"])
                ec2.delete_snapshot(SnapshotId=snapshot["id"])
        shutil.copy(self._versions[0], self._conversions.disk)
        for version in self._versions:
            version.unlink()

    def _is(self, snapshot: str, version: Path) -> bool:
        with suppress(AssertionError):
            self._conversions.holds(snapshot, version)
            return True
        return False


def main() -> None:
    script = Script(__doc__)
    script.add_argument("--kills", type=int, default=100)
    script.add_seed()
    script.add_argument(
        "--longest",
        type=float,
        default=1.5,
        metavar="S",
        help="of a run of the daemon (default: 1.5); a busy machine needs more, or all kills come during the checks",
    )
    script.add_directory()
    options = script.parse_args()
    with ExitStack() as stack:
        directory = stack.enter_context(working_directory("convert-kills", options.directory))
        endpoint = stack.enter_context(stack.enter_context(run_ebs()).account())
        kills = Kills(directory, endpoint, make_keys(directory), options.seed, options.longest)
        script.put(kills.kill(options.kills), seed=options.seed)


if __name__ == "__main__":
    main()
