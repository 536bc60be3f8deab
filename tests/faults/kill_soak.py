"""Ends the daemon at random moments, or at chosen requests, and judges what comes of its jobs.

    python tests/faults/kill_soak.py --kills 300 --seed 1
    python tests/faults/kill_soak.py --kills 100 --signal TERM --seed 1
    python tests/faults/kill_soak.py --kills 40 --kinds 'tree,changed tree' --longest 4

Jobs bundle noise, text and a file system with free blocks, into a bucket, with small parts, with parts that are
multipart uploads, or registered; into a directory; to two destinations; and from an image that is changed while no
daemon runs. Some bundle a directory, unchanged, or changed in the same way. The daemon is started, given new jobs while
there are any, and ended later: by SIGKILL, or by one SIGTERM (running jobs go on to their end) or two
(they stop). At last it is left alone until every job has ended. Then every job must be done, every bundle must pass the
whole check, nothing else may lie at the destinations, each AMI must be there once, no part may have been stored twice,
and no two plaintexts may have gone out under one key. Nothing may be left mounted, or in the directory for temporary
files, and a job that starts over for a directory names a file that changed.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import sys
import time
from collections import Counter, defaultdict
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from faults.script import Script, working_directory
from source.tree.images import opened, write_image
from support.buckets import create_bucket, download_bundle, list_keys, open_uploads
from support.commands import COMMANDS
from support.daemons import owner
from support.endpoints import run_ministack
from support.keys import make_keys
from support.processes import Killable
from support.proxy import Fault, FaultProxy, PauseReply, PauseRequest, dry_run_answered
from support.referee import check_bundle
from support.unix_http import ask, is_healthy, wait_ended
from support.volumes import ext4_image

if TYPE_CHECKING:
    from collections.abc import Sequence

    from support.endpoints import Endpoint
    from support.keys import KeyRing

BUCKET = "kill-soak"
SECOND = "kill-soak-2"
PATIENCE_S = 180
MIB = 1 << 20
TREE_SIZE = 24 * MIB
KINDS = ("small", "changed tree", "multipart", "registered", "tree", "directory", "two buckets", "changed")


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """How the daemon is ended, and which jobs it gets."""

    kills: int
    seed: int
    end: signal.Signals = signal.SIGKILL
    longest_run_s: float = 1.2
    kinds: Sequence[str] = KINDS
    requests: Sequence[int] = ()
    """For each kill, the request of the daemon at which it comes; none: kills come at random moments."""


@dataclass(kw_only=True)
class Planned:
    """A job to be handed in, and each state its volume had."""

    body: dict[str, Any]
    versions: list[Path]
    changes: bool = False
    moved: set[str] = field(default_factory=set)
    """The names of a tree's files that were changed."""
    id: str = ""

    @property
    def source(self) -> Path:
        return Path(self.body["source"])


@dataclass(kw_only=True)
class Verdict:
    """The counts of the soak."""

    kills: int = 0
    jobs: int = 0
    states_at_kill: Counter[str] = field(default_factory=Counter)
    parts: int = 0
    puts: int = 0
    puts_again: int = 0
    """Puts of an object whose earlier put had not been answered when the daemon was killed."""
    amis: int = 0
    changed: int = 0
    """Jobs whose source was changed before they had ended."""
    started_over: int = 0
    trees: int = 0
    trees_started_over: int = 0


class Soak:
    """A soak in one directory."""

    def __init__(self, directory: Path, endpoint: Endpoint, proxy: FaultProxy, keys: KeyRing, wishes: Wishes) -> None:
        self._directory = directory
        self._endpoint = endpoint
        self._proxy = proxy
        self._keys = keys
        self._dice = random.Random(wishes.seed)
        self._wishes = wishes
        self._socket = directory / "amistream.sock"
        self._temporary = directory / "tmp"
        self._planned: list[Planned] = []
        self.verdict = Verdict()

    def run(self, at_once: int = 3) -> Verdict:
        self._temporary.mkdir()
        self._amis_before = self._count_amis()
        images = [*(self._image(number) for number in range(2)), self._file_system()]
        self._large = self._directory / "large.img"
        self._large.write_bytes(self._dice.randbytes(13 * MIB))
        self._tree, self._tree_image = self._make_tree("tree"), self._directory / "tree.img"
        _write_tree(self._tree, self._tree_image)
        while self.verdict.kills < self._wishes.kills:
            held = self._held_request()
            with_daemon = self._start()
            self._hand_in(images, at_once)
            if held is None:
                # The soak's own moment, not a synchronisation.
                time.sleep(self._dice.uniform(0, self._wishes.longest_run_s))
            else:
                self._proxy.wait_hit(held)
            under_way = [job for job in self._jobs() if not _ended(job)]
            self.verdict.states_at_kill.update(job["state"] for job in under_way)
            with_daemon.end(self._wishes.end, twice=self._dice.random() < 0.5)
            self.verdict.kills += 1
            if held is not None:
                self._proxy.mend(held)
                self._proxy.let_go(held)
            self._change({job["id"] for job in under_way})
        last = self._start()
        try:
            self._wait_all_ended()
            self._judge()
        finally:
            last.stop()
        return self.verdict

    def _held_request(self) -> Fault | None:
        """Hold the request at which the next kill comes: before the endpoint sees it, or after it was done, in turn."""
        kills = self.verdict.kills
        if not self._wishes.requests:
            return None
        action = PauseReply() if kills % 2 else PauseRequest()
        held = Fault(action=action, method="PUT|POST|HEAD|DELETE", nth=self._wishes.requests[kills])
        self._proxy.add(held)
        return held

    def _image(self, number: int) -> Path:
        """3 MiB of text, noise and zeros in another order each time."""
        path = self._directory / f"disk-{number}.img"
        pieces = [
            self._dice.randbytes(700_000),
            b"".join(b"%d lines of it\n" % line for line in range(60_000))[:900_000],
            bytes(600_000),
            self._dice.randbytes(800_000),
        ]
        self._dice.shuffle(pieces)
        path.write_bytes(b"".join(pieces))
        return path

    def _file_system(self) -> Path:
        """An ext4 in a file without holes, so that half of it is left out as free blocks, which are zeros."""
        path = ext4_image(self._directory / "ext4.img", 4 * MIB)
        path.write_bytes(path.read_bytes())
        return path

    def _make_tree(self, name: str) -> Path:
        """3 MiB in 40 files."""
        root = self._directory / name
        for number in range(40):
            path = root / f"folder-{number % 4}" / f"file-{number:02d}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self._dice.randbytes(self._dice.randrange(150_000)))
        return root

    def _change(self, under_way: set[str]) -> None:
        """Give some sources of unfinished jobs another state."""
        for planned in self._planned:
            if planned.changes and planned.id in under_way and self._dice.random() < 0.3:
                if planned.source.is_dir():
                    self._change_tree(planned)
                else:
                    self._change_image(planned.source)
                self._remember_version(planned)

    def _change_image(self, image: Path) -> None:
        """Change some bytes near the end, or anywhere."""
        data = bytearray(image.read_bytes())
        at = self._dice.choice([len(data) - 4096, self._dice.randrange(len(data) - 4096)])
        data[at : at + 4096] = self._dice.randbytes(4096)
        image.write_bytes(data)

    def _change_tree(self, planned: Planned) -> None:
        """Write into a file, replace one, or make one; sometimes remove one, too."""
        files = sorted(path for path in planned.source.rglob("*") if path.is_file())
        path = self._dice.choice(files)
        match self._dice.randrange(3):
            case 0:
                with path.open("r+b") as file:
                    file.write(self._dice.randbytes(100))
            case 1:
                other = path.with_name("other")
                other.write_bytes(self._dice.randbytes(10_000))
                other.replace(path)
            case _:
                path = path.with_name(f"new-{len(planned.versions)}")
                path.write_bytes(self._dice.randbytes(10_000))
        planned.moved.add(f"/{path.relative_to(planned.source)}")
        if self._dice.random() < 0.3:
            self._dice.choice([each for each in files if each != path]).unlink()

    def _remember_version(self, planned: Planned) -> None:
        copy = planned.source.with_suffix(f".{len(planned.versions)}")
        if planned.source.is_dir():
            _write_tree(planned.source, copy)
        else:
            copy.write_bytes(planned.source.read_bytes())
        planned.versions.append(copy)

    def _start(self) -> Killable:
        environ = {
            "PATH": "/usr/bin:/bin",
            "HOME": str(self._directory),
            "TMPDIR": str(self._temporary),
            **self._endpoint.environ(),
            "AMISTREAM_BLOCK_SIZE": "64KiB",
            "AMISTREAM_BACKOFF_BASE_S": "0.05",
            "AMISTREAM_REGISTER_POLL_S": "0.02",
            "AMISTREAM_MULTIPART_THRESHOLD": "5MiB",
            "AMISTREAM_MULTIPART_CHUNK": "5MiB",
        }
        argv = [str(COMMANDS / "amistreamd"), "--socket", str(self._socket)]
        argv += ["--state-dir", str(self._directory / "state")]
        self._socket.unlink(missing_ok=True)
        log = self._directory / f"daemon-{self.verdict.kills:03d}.log"
        process = Killable(argv, log=log, environ=environ, directory=self._directory, forked=True)
        process.wait_ready(partial(is_healthy, self._socket))
        return process

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None, key: str = "") -> Any:
        return ask(self._socket, method, path, body, key)

    def _jobs(self) -> list[dict[str, Any]]:
        jobs: list[dict[str, Any]] = self._ask("GET", "/v1/jobs")["jobs"]
        return jobs

    def _hand_in(self, images: list[Path], at_once: int) -> None:
        living = sum(not _ended(job) for job in self._jobs())
        for _ in range(at_once - living):
            image, number = self._dice.choice(images), len(self._planned)
            # A changed byte among free blocks would not come back.
            planned = self._plan(images[0] if self._kind(number) == "changed" else image, number)
            self._planned.append(planned)
            planned.id = self._ask("POST", "/v1/jobs", planned.body, key=f"job-{len(self._planned)}")["id"]

    def _plan(self, image: Path, number: int) -> Planned:
        kind = self._kind(number)
        body: dict[str, Any] = {
            "source": str(self._large if kind == "multipart" else image),
            "destinations": [f"s3://{BUCKET}/{number}"],
            **owner(self._keys),
            "part_size": "6MiB" if kind == "multipart" else self._dice.choice(["64KiB", "256KiB", "1MiB"]),
            "compress": self._dice.choice(["fast", "balanced", "auto"]),
            "upload_concurrency": self._dice.choice([1, 2, 4]),
            "endpoint_url": self._proxy.url,
        }
        if kind == "directory":
            body["destinations"] = [str(self._directory / f"out-{number}")]
            del body["endpoint_url"]
        elif kind == "two buckets":
            body["destinations"] += [f"s3://{SECOND}/{number}"]
        if kind == "registered":
            # The endpoint shows an AMI's name as its location; this way that is right.
            body["ami_name"] = f"{BUCKET}/{number}/image.manifest.xml"
        else:
            body["register_image"] = False
        planned = Planned(body=body, versions=[Path(body["source"])])
        if kind == "changed":
            body["source"] = str(self._directory / f"changing-{number}.img")
            planned.source.write_bytes(image.read_bytes())
        elif kind == "changed tree":
            body["source"] = str(self._make_tree(f"changing-{number}.tree"))
        if kind in ("changed", "changed tree"):
            planned.changes = True
            planned.versions.clear()
            self._remember_version(planned)
        if kind == "tree":
            body["source"], planned.versions = str(self._tree), [self._tree_image]
        if kind in ("tree", "changed tree"):
            body |= {"size": str(TREE_SIZE), "partition": "none"}
            self.verdict.trees += 1
        return planned

    def _kind(self, number: int) -> str:
        return self._wishes.kinds[number % len(self._wishes.kinds)]

    def _wait_all_ended(self) -> None:
        for job in self._jobs():
            wait_ended(self._socket, job["id"], PATIENCE_S)

    def _judge(self) -> None:
        jobs = {job["id"]: job for job in self._jobs()}
        self.verdict.jobs = len(jobs)
        assert len(jobs) == len(self._planned), "a job was lost or made twice"
        for planned in self._planned:
            job = jobs[planned.id]
            assert job["state"] == "done", job
            for place in job["result"]["places"]:
                self._judge_bundle(planned, job, place)
            self.verdict.changed += len(planned.versions) > 1
        assert not _mounts_of(self._directory)
        assert not list(self._temporary.iterdir())
        assert self._count_amis() == self._amis_before + self.verdict.amis
        for bucket in (BUCKET, SECOND):
            assert not open_uploads(self._endpoint, bucket)
            self._judge_puts(bucket)

    def _count_amis(self) -> int:
        with self._endpoint.blocking_client("ec2") as ec2:
            return len(ec2.describe_images(Owners=["self"])["Images"])

    def _judge_bundle(self, planned: Planned, job: dict[str, Any], place: dict[str, Any]) -> None:
        where = Path(place["destination"])
        if place["destination"].startswith("s3://"):
            bucket, _, prefix = place["destination"].removeprefix("s3://").partition("/")
            where = self._directory / "got" / planned.id / bucket
            download_bundle(self._endpoint, bucket, prefix + "/", where)
        self._check_one_version(planned, where)
        # Hidden files too: a temporary one that stayed is an orphan.
        assert len(list(where.iterdir())) == job["result"]["parts"] + 1, sorted(where.iterdir())
        self.verdict.parts += job["result"]["parts"]
        if planned.body.get("register_image", True):
            with self._endpoint.blocking_client("ec2") as ec2:
                filters = [{"Name": "name", "Values": [place["image_name"]]}]
                (image,) = ec2.describe_images(Owners=["self"], Filters=filters)["Images"]
            assert image["ImageId"] == place["image_id"]
            self.verdict.amis += 1

    def _check_one_version(self, planned: Planned, bundle: Path) -> None:
        """Check that the bundle holds one state of the volume as a whole."""
        for version in planned.versions[:-1]:
            with suppress(AssertionError):
                check_bundle(bundle, version, self._keys.user.key, self._keys.user.certificate)
                return
        check_bundle(bundle, planned.versions[-1], self._keys.user.key, self._keys.user.certificate)

    def _judge_puts(self, bucket: str) -> None:
        """Each object was stored once, and always with the same bytes: no key was used for two.

        Jobs whose image was changed may start over; what they removed must be gone.
        """
        again = self._started_over()
        for each in self._proxy.seen("DELETE", f"/{bucket}/.*"):
            key = each.path.removeprefix(f"/{bucket}/")
            assert "uploadId" in each.query or "probe" in key or key.partition("/")[0] in again, self._story(
                bucket, key
            )
        keys = set(list_keys(self._endpoint, bucket))
        puts = defaultdict(list)
        for put in self._proxy.seen("PUT", f"/{bucket}/.+"):
            key = put.path.removeprefix(f"/{bucket}/")
            if "probe" not in key:
                puts[key].append(put)
        assert keys <= set(puts)
        assert {key.partition("/")[0] for key in set(puts) - keys} <= again
        for key, tries in puts.items():
            if key.partition("/")[0] in again:
                continue
            if "uploadId" in tries[0].query:
                # Chunks of an upload that was cut short are sent again under a new upload.
                completed = self._proxy.seen("POST", f"/{bucket}/{key}", "uploadId=")
                assert sum(each.upstream_status == 200 for each in completed) == 1, self._story(bucket, key)
                continue
            assert sum(put.upstream_status == 200 for put in tries) == 1, self._story(bucket, key)
            assert len({put.headers["x-amz-checksum-sha1"] for put in tries}) == 1, key
            self.verdict.puts += len(tries)
            self.verdict.puts_again += len(tries) - 1

    def _started_over(self) -> set[str]:
        """Return the numbers of the jobs that started over under a new key: only those of a changed image may."""
        notices = {job["id"]: [each for each in job["notices"] if "starting over" in each] for job in self._jobs()}
        over = {number: planned for number, planned in enumerate(self._planned) if notices[planned.id]}
        trees = [planned for planned in over.values() if planned.source.is_dir()]
        for planned in over.values():
            assert len(planned.versions) > 1, planned
        for planned in trees:
            for text in notices[planned.id]:
                assert any(f"({path}" in text or f", {path}" in text for path in planned.moved), (text, planned.moved)
        self.verdict.started_over, self.verdict.trees_started_over = len(over), len(trees)
        return set(map(str, over))

    def _story(self, bucket: str, key: str) -> str:
        """All that was asked about an object, and what its job says: to find out why it was stored twice."""
        asked = [
            f"{each.method} {each.upstream_status} {each.headers.get('x-amz-checksum-sha1', '')}"
            for each in self._proxy.requests
            if each.path == f"/{bucket}/{key}" or (each.query == "delete" and key.encode() in each.form)
        ]
        jobs = [job for job in self._jobs() if f"s3://{bucket}/{key.partition('/')[0]}" in job["destinations"]]
        return "\n".join([key, *asked, *(json.dumps(job) for job in jobs)])


def _write_tree(tree: Path, image: Path) -> None:
    """Write the image that a job makes of the tree as it is now."""
    with opened(tree, TREE_SIZE) as volume:
        write_image(volume, image)


def _mounts_of(directory: Path) -> list[str]:
    """The mounts in a directory, or of something in it, as the kernel lists them."""
    return [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(directory) in line]


def _ended(job: dict[str, Any]) -> bool:
    return job["state"] in {"done", "refused", "failed", "cancelled", "interrupted"}


def soak(wishes: Wishes, directory: Path) -> Verdict:
    """Run a soak against an endpoint of its own. Raises AssertionError when something is not as it must be."""
    with ExitStack() as stack:
        endpoint = stack.enter_context(run_ministack())
        for bucket in (BUCKET, SECOND):
            create_bucket(endpoint, bucket)
        proxy = stack.enter_context(FaultProxy(endpoint, [dry_run_answered()]))
        return Soak(directory, endpoint, proxy, make_keys(directory), wishes).run()


def main() -> None:
    script = Script(__doc__)
    script.add_argument("--kills", type=int, default=200)
    script.add_argument("--signal", choices=["KILL", "TERM"], default="KILL")
    script.add_seed()
    script.add_argument("--kinds", type=_kinds, default=KINDS, metavar="KIND,..", help=f"of {', '.join(KINDS)}")
    script.add_argument("--longest", type=float, default=1.2, metavar="S", help="of a run of the daemon (default: 1.2)")
    script.add_directory()
    options = script.parse_args()
    wishes = Wishes(
        kills=options.kills,
        seed=options.seed,
        end=signal.Signals[f"SIG{options.signal}"],
        longest_run_s=options.longest,
        kinds=options.kinds,
    )
    with ExitStack() as stack:
        directory = stack.enter_context(working_directory("kill-soak", options.directory))
        script.put(soak(wishes, directory), seed=options.seed)


def _kinds(text: str) -> list[str]:
    kinds = text.split(",")
    if unknown := set(kinds) - set(KINDS):
        raise argparse.ArgumentTypeError(f"there is no kind {', '.join(sorted(unknown))}")
    return kinds


if __name__ == "__main__":
    main()
