"""Ends daemons of a fleet at chosen requests while they hold jobs of one queue, and judges what comes of the jobs.

    python tests/faults/fleet_soak.py --daemons 20 --jobs 100 --kills 5
    python tests/faults/fleet_soak.py --daemons 100 --jobs 1000 --kills 10 --seed 2

Every daemon is a process with a state directory, a socket and a name of its own. Jobs bundle small images, some with
parts that are multipart uploads, verify and migrate bundles that were there before, and convert a disk to an AMI. Some
messages are sent twice, and some can become no job. A kill comes at the request that one of the moments names, before
the endpoint sees it or after it was done; whichever daemon makes it is ended by SIGKILL, and some are started again.
A request that was held arrives after the death of its daemon.

At the end every job must be done, with one result for each of its messages, or one more where the daemon was killed
after it had sent it; every bundle, copy and snapshot must be complete and right; nothing else may lie in the bucket,
claims and unfinished uploads least of all; only poison may be a dead letter; and the queue must be empty.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import sys
import time
from collections import Counter, defaultdict
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bundles.made import older_bundle, put_files, stored_bytes
from faults.script import Script, working_directory
from jobs.converting import indices, make_disk
from support.buckets import create_bucket, download_bundle, list_keys, open_uploads, remove_bucket
from support.daemons import owner
from support.ebs_endpoint import run_ebs
from support.endpoints import run_ministack
from support.fleet_hosts import Host
from support.fleet_queues import open_queues
from support.keys import make_keys
from support.proxy import Fault, FaultProxy, PauseReply, PauseRequest
from support.referee import check_bundle
from support.volumes import random_image

if TYPE_CHECKING:
    from collections.abc import Sequence

    from support.ebs_endpoint import EbsEndpoint
    from support.endpoints import Endpoint
    from support.fleet_queues import Queues
    from support.keys import KeyRing
    from support.proxy import Action, Request

PATIENCE_S = 180.0
"""Seconds without a new result after which the fleet is held to be stuck."""
BETWEEN_LINES_S = 5.0
MOST_RECEIVES = 10
KINDS = ("bundle", "verify", "migrate", "bundle", "convert", "verify", "multipart", "migrate")
OLD_SIZES = [30_000, 30_000, 100]
OLD_BUNDLES = 5
_TARGET = "(?i)x-amz-target: amazonsqs."
_HELD = PauseReply()
MOMENTS = {
    "claim": Fault(action=_HELD, path=".*claim"),
    "part": Fault(action=_HELD, path=".*part[.].*"),
    "manifest": Fault(action=_HELD, path=".*manifest.xml"),
    "release": Fault(action=_HELD, method="DELETE", path=".*claim"),
    "look": Fault(action=_HELD, method="HEAD", path=".*part[.].*"),
    "result": Fault(action=_HELD, method="POST", header=f"{_TARGET}sendmessage"),
    "deletion": Fault(action=_HELD, method="POST", header=f"{_TARGET}deletemessage"),
}
"""Requests at which a daemon is killed."""


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """The size of the fleet and of its work, and how many daemons are killed."""

    daemons: int = 100
    jobs: int = 1000
    kills: int = 10
    seed: int = 1
    visibility_s: int = 6
    is_loud: bool = False
    """Show progress on stderr."""
    moments: Sequence[tuple[str, int]] = ()
    """The moment of each kill, and which of its requests; none: at random."""


@dataclass(kw_only=True)
class Verdict:
    """The counts of the soak."""

    jobs: Counter[str] = field(default_factory=Counter)
    """By their kind."""
    kills: Counter[str] = field(default_factory=Counter)
    """By their moment."""
    missed: list[str] = field(default_factory=list)
    """Moments that did not come before all was done."""
    started_again: int = 0
    sent_twice: int = 0
    poison: int = 0
    redeliveries: int = 0
    leases_lost: int = 0
    dead_letters: int = 0
    queue_calls: Counter[str] = field(default_factory=Counter)
    calls_per_job: float = 0.0
    seconds: float = 0.0
    """From the first message to the last result."""


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A job as it is sent; `image` is what its bundle must hold."""

    name: str
    kind: str
    request: dict[str, Any]
    image: Path | None = None
    is_poison: bool = False

    @property
    def body(self) -> str:
        return json.dumps({"v": 1, "job": self.name, "kind": self.kind, "request": self.request})


class FleetSoak:
    """A soak in one directory, with a bucket of its own."""

    def __init__(
        self, directory: Path, endpoint: Endpoint, ebs: EbsEndpoint, queues: Queues, keys: KeyRing, wishes: Wishes
    ) -> None:
        self._directory = directory
        self._endpoint = endpoint
        self._ebs = ebs
        self._keys = keys
        self._wishes = wishes
        self._dice = random.Random(wishes.seed)
        self._bucket = f"fleet-{os.urandom(4).hex()}"
        self._proxy = FaultProxy(endpoint)
        self._queues = queues
        self._hosts = [Host(name=f"host-{n:03d}", directory=directory / f"h{n}") for n in range(wishes.daemons)]
        self._results: dict[str, dict[str, Any]] = {}
        self._planned: list[Planned] = []
        self._silent_until = 0.0
        self.verdict = Verdict()

    def run(self) -> Verdict:
        create_bucket(self._endpoint, self._bucket)
        try:
            with self._proxy:
                self._make_sources()
                self._plan()
                try:
                    self._work()
                finally:
                    self._end_all()
                self._judge()
        finally:
            remove_bucket(self._endpoint, self._bucket)
        return self.verdict

    def _work(self) -> None:
        for host in self._hosts:
            self._start(host)
        for host in self._hosts:
            host.wait_ready()
        started = time.monotonic()
        held = {self._hold(moment): moment[0] for moment in self._moments()}
        # A request that is held for longer than a host waits for an answer would come after the host went on.
        with ThreadPoolExecutor(1) as pool:
            sending = pool.submit(self._send)
            self._kill_all(held, sending)
            sending.result()
        self._wait_all_done()
        self.verdict.seconds = round(time.monotonic() - started, 1)

    def _make_sources(self) -> None:
        self._images = [
            random_image(self._directory / f"disk-{number}.img", 700_000 + 100_000 * number, seed=number)
            for number in range(3)
        ]
        self._large = random_image(self._directory / "large.img", 13 << 20)
        self._disk = make_disk(self._directory / "disk.img")
        self._old = []
        for number in range(OLD_BUNDLES):
            made = older_bundle(self._directory / f"old-{number}", self._keys, OLD_SIZES, name=f"old-{number}")
            put_files(self._endpoint, self._bucket, made.parent, f"old/{number}/")
            self._old.append(made)

    def _plan(self) -> None:
        for number in range(self._wishes.jobs):
            kind = KINDS[number % len(KINDS)]
            self._planned.append(self._job(kind, f"{kind}-{number}"))
            self.verdict.jobs[kind] += 1
        missing = {"manifest": f"s3://{self._bucket}/none/image.manifest.xml"}
        absent = self._job("bundle", "absent").request | {"source": str(self._directory / "absent.img")}
        for number in range(max(1, self._wishes.jobs // 200)):
            self._planned += [
                Planned(name=f"gone-{number}", kind="verify", request=missing, is_poison=True),
                Planned(name=f"absent-{number}", kind="bundle", request=absent, is_poison=True),
                Planned(name=f"odd-{number}", kind="none", request={}, is_poison=True),
            ]
        self.verdict.poison = sum(each.is_poison for each in self._planned)
        self._dice.shuffle(self._planned)

    def _job(self, kind: str, name: str) -> Planned:
        old = self._dice.randrange(OLD_BUNDLES)
        manifest = f"s3://{self._bucket}/old/{old}/{self._old[old].name}"
        if kind == "verify":
            return Planned(name=name, kind=kind, request={"manifest": manifest})
        if kind == "convert":
            return Planned(name=name, kind=kind, request={"source": str(self._disk), "ami_name": name, "puts": 2})
        request: dict[str, Any] = {"destinations": [self._place(name)], **owner(self._keys)}
        if kind == "migrate":
            del request["account"]
            request |= {"manifest": manifest, "region": self._endpoint.region}
            return Planned(name=name, kind=kind, request=request, image=self._old[old])
        image = self._large if kind == "multipart" else self._dice.choice(self._images)
        request |= {"source": str(image), "register_image": False}
        request["part_size"] = "6MiB" if kind == "multipart" else "256KiB"
        return Planned(name=name, kind="bundle", request=request, image=image)

    def _place(self, name: str) -> str:
        return f"s3://{self._bucket}/{name}"

    def _send(self) -> None:
        good = [each for each in self._planned if not each.is_poison]
        twice = set(self._dice.sample([each.name for each in good], max(1, len(good) // 20)))
        self.verdict.sent_twice = len(twice)
        for planned in self._planned:
            for _ in range(1 + (planned.name in twice)):
                self._queues.send_text(planned.body)

    def _start(self, host: Host) -> None:
        settings = self._queues.settings(
            queue_url=self._by_proxy(self._queues.jobs),
            results=f"sqs:{self._by_proxy(self._queues.results)}",
            queue_visibility_s=self._wishes.visibility_s,
            source_roots=f"{self._directory}:{self._keys.user.key.parent}",
            block_size="64KiB",
            multipart_threshold="5MiB",
            multipart_chunk="5MiB",
            upload_concurrency=2,
        )
        # Each service has an endpoint of its own.
        del settings["endpoint_url"]
        other = {"AWS_ENDPOINT_URL_EC2": self._ebs.url, "AWS_ENDPOINT_URL_EBS": self._ebs.url}
        host.start(self._proxy.endpoint, settings, **other)

    def _by_proxy(self, url: str) -> str:
        return url.replace(self._endpoint.url, self._proxy.url)

    def _moments(self) -> list[tuple[str, int]]:
        """The kills, spread over the first quarter of the requests of each kind."""
        share = max(2, self._wishes.jobs // 4)
        chosen = [(self._dice.choice(sorted(MOMENTS)), self._dice.randint(1, share)) for _ in range(self._wishes.kills)]
        return list(self._wishes.moments) or chosen

    def _hold(self, moment: tuple[str, int]) -> Fault:
        """Hold the request at which the next kill comes."""
        name, nth = moment
        actions: list[Action] = [PauseReply(), PauseRequest(), PauseRequest(whole=True)]
        held = replace(MOMENTS[name], action=self._dice.choice(actions), nth=nth)
        self._proxy.add(held)
        return held

    def _kill_all(self, held: dict[Fault, str], sending: Future[None]) -> None:
        """Kill a daemon at each of the requests that are to be held, until the queue is empty."""
        while held:
            for fault in list(held):
                with suppress(TimeoutError):
                    self._proxy.wait_hit(fault, 0.05)
                    self._kill_at(held.pop(fault), fault)
            if held and sending.done() and not self._queues.left():
                for fault, moment in held.items():
                    self._free(fault)
                    self.verdict.missed.append(moment)
                return

    def _kill_at(self, moment: str, fault: Fault) -> None:
        request = next(each for each in self._proxy.requests if each.fault is fault)
        host = self._host_of(request)
        if host.process is None:
            # It was killed at another request meanwhile.
            self._free(fault)
            self.verdict.missed.append(moment)
            return
        host.kill()
        self._free(fault)
        self.verdict.kills[moment] += 1
        self._say(f"killed {host.name} at {moment}")
        is_last = not any(each.process for each in self._hosts)
        if is_last or self._dice.random() < 0.5:
            host.start_again()
            host.wait_ready()
            self.verdict.started_again += 1

    def _free(self, fault: Fault) -> None:
        self._proxy.mend(fault)
        self._proxy.let_go(fault)

    def _host_of(self, request: Request) -> Host:
        found = re.search(r"app/(host-\d+)", request.headers["user-agent"])
        assert found, request.headers
        return next(each for each in self._hosts if each.name == found[1])

    def _wait_all_done(self) -> None:
        wanted = {each.name for each in self._planned}
        deadline = time.monotonic() + PATIENCE_S
        while True:
            taken = self._queues.take_results(wait_s=1)
            if taken:
                deadline = time.monotonic() + PATIENCE_S
                self._say(f"{len(self._results)} results")
            for result in taken:
                # The same result may come twice, from two hosts: the first counts.
                first = self._results.setdefault(result["id"], result)
                assert (first["job"], first["outcome"]) == (result["job"], result["outcome"])
            if not taken and not self._queues.left():
                break
            missing = wanted - {each["job"] for each in self._results.values()}
            assert time.monotonic() < deadline, f"no result of {sorted(missing)}, {self._queues.left()} messages left"

    def _say(self, text: str) -> None:
        """Show progress, once in a while."""
        if self._wishes.is_loud and time.monotonic() > self._silent_until:
            print(text, file=sys.stderr)  # noqa: T201 - progress
            self._silent_until = time.monotonic() + BETWEEN_LINES_S

    def _end_all(self) -> None:
        running = [each for each in self._hosts if each.process is not None]
        for host in running:
            with suppress(OSError):
                self.verdict.leases_lost += int(host.metric("leases_lost_total"))
        try:
            for host in running:
                os.kill(host.running.pid, signal.SIGTERM)
            for host in running:
                host.running.wait_end(signal.SIGTERM)
        finally:
            for host in running:
                host.running.stop()

    def _judge(self) -> None:
        verdict = self.verdict
        self._judge_results()
        self._judge_letters()
        assert self._queues.left() == 0
        self._judge_bucket()
        self._judge_snapshots()
        for request in self._proxy.requests:
            if target := request.headers.get("x-amz-target"):
                verdict.queue_calls[target.rpartition(".")[2]] += 1
        verdict.calls_per_job = round(verdict.queue_calls.total() / self._wishes.jobs, 2)

    def _judge_results(self) -> None:
        by_job = defaultdict(list)
        receives: dict[str, int] = {}
        for result in self._results.values():
            by_job[result["job"]].append(result)
            message = result["message"]
            receives[message] = max(receives.get(message, 0), result["attempt"])
        self.verdict.redeliveries = sum(receives.values()) - len(receives)
        assert set(by_job) == {each.name for each in self._planned}
        for planned in self._planned:
            results = by_job[planned.name]
            outcomes = {each["outcome"] for each in results}
            if planned.is_poison:
                assert outcomes <= {"refused", "failed"}, results
            else:
                assert [each["id"] for each in results] == [f"{planned.name}#done"], results

    def _judge_letters(self) -> None:
        letters: list[str] = []
        while found := self._queues.letters():
            letters += [each["body"] for each in found]
        poison = [each.body for each in self._planned if each.is_poison]
        assert set(letters) == set(poison), letters
        assert len(letters) <= len(poison) + self.verdict.kills.total() + self.verdict.leases_lost, letters
        self.verdict.dead_letters = len(letters)

    def _judge_bucket(self) -> None:
        """Every bundle and copy is whole, and nothing else is there."""
        uploads = open_uploads(self._endpoint, self._bucket)
        assert uploads == [], (uploads, self.verdict)
        places = defaultdict(set)
        for key in list_keys(self._endpoint, self._bucket):
            place, _, name = key.rpartition("/")
            places[place].add(name)
        for number, made in enumerate(self._old):
            assert places.pop(f"old/{number}") == {each.name for each in made.parent.iterdir()}
        for planned in self._planned:
            if planned.image is None:
                continue
            names = places.pop(planned.name)
            if planned.kind == "migrate":
                self._judge_copy(planned, names)
                continue
            got = self._directory / "got" / planned.name
            download_bundle(self._endpoint, self._bucket, f"{planned.name}/", got)
            # It refuses files that the manifest does not list.
            check_bundle(got, planned.image, self._keys.user.key, self._keys.user.certificate)
        assert dict(places) == {}

    def _judge_copy(self, planned: Planned, names: set[str]) -> None:
        assert planned.image is not None
        made = {each.name: each.read_bytes() for each in planned.image.parent.iterdir()}
        copied = stored_bytes(self._endpoint, self._bucket, f"{planned.name}/")
        assert names == set(made), (planned.name, names ^ set(made))
        # The manifest is signed anew.
        del made[planned.image.name], copied[planned.image.name]
        assert copied == made

    def _judge_snapshots(self) -> None:
        """Each conversion has one snapshot and one AMI, and no other is there."""
        done = {each["job"]: each["result"] for each in self._results.values() if each["kind"] == "convert"}
        blocks = len(indices(self._disk))
        snapshots = {each["id"]: each for each in self._ebs.snapshots()}
        assert {each["snapshot_id"] for each in done.values()} == set(snapshots)
        assert len(done) == len(snapshots) == self.verdict.jobs["convert"]
        assert {(each["state"], each["distinct"]) for each in snapshots.values()} <= {("completed", blocks)}
        assert sorted(each["imageId"] for each in self._ebs.images()) == sorted(e["image_id"] for e in done.values())
        assert self._ebs.orphans() == []


def soak(wishes: Wishes, directory: Path, endpoint: Endpoint, ebs: EbsEndpoint, keys: KeyRing) -> Verdict:
    """Run a soak; `ebs` has the credentials of `endpoint`. Raises AssertionError if something is wrong."""
    with open_queues(endpoint, most_receives=MOST_RECEIVES) as queues:
        return FleetSoak(directory, endpoint, ebs, queues, keys, wishes).run()


def main() -> None:
    script = Script(__doc__)
    script.add_argument("--daemons", type=int, default=100)
    script.add_argument("--jobs", type=int, default=1000)
    script.add_argument("--kills", type=int, default=10)
    script.add_seed()
    script.add_visibility(6)
    script.add_directory()
    options = script.parse_args()
    wishes = Wishes(
        daemons=options.daemons,
        jobs=options.jobs,
        kills=options.kills,
        seed=options.seed,
        visibility_s=options.visibility,
        is_loud=True,
    )
    with ExitStack() as stack:
        directory = stack.enter_context(working_directory("fleet-soak", options.directory))
        endpoint = stack.enter_context(run_ministack())
        ebs = stack.enter_context(stack.enter_context(run_ebs()).account(like=endpoint))
        script.put(soak(wishes, directory, endpoint, ebs, make_keys(directory)), seed=options.seed)


if __name__ == "__main__":
    main()
