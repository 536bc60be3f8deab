"""Sends a real daemon messages that nobody should, through its queue, and judges what comes of them.

    python tests/faults/fleet_fuzz.py --messages 500 --seed 1

They are cut, malformed, foreign, too long, too deep, of other versions, and good ones with a field or more changed;
they name files outside of the roots, directly, by `..` and by symbolic links, pipes and devices, endpoints of the
sender's choosing, and absurd numbers and texts. Every message must have a result or be a dead letter. Good messages in
between must be done. Files outside of the roots must not even be opened, no request may reach a forged endpoint, the
daemon must be the same process in the end, in good health, with no file open more than before, and its log may name no
bug and no secret. Every message follows from the seed and its number.
"""

from __future__ import annotations

import ctypes
import json
import os
import random
import socket
import struct
import sys
import time
from collections import Counter
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from amistream.request import BundleRequest
from amistream.request.convert import ConvertRequest
from amistream.request.migrate import MigrateRequest
from amistream.request.verify import VerifyRequest
from bundles.made import older_bundle, put_files
from faults.script import Script, working_directory
from support.buckets import create_bucket, remove_bucket
from support.daemons import owner
from support.endpoints import run_ministack
from support.fleet_hosts import Host
from support.fleet_queues import open_queues
from support.keys import make_keys
from support.volumes import random_image

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from support.endpoints import Endpoint
    from support.fleet_queues import Queues
    from support.keys import KeyRing

PATIENCE_S = 120.0
VISIBILITY_S = 3
GOOD_EVERY = 8
"""Each so-manieth message is a good one."""
OPENED_ONCE = 8
"""Files that the daemon may open once and keep."""
BUGS = ("Traceback", "message.bug", "job.bug", "internal.bug")
IN_OPEN, IN_ACCESS = 0x20, 0x01

FIELDS = {
    "bundle": sorted(BundleRequest.model_fields),
    "convert": sorted(ConvertRequest.model_fields),
    "migrate": sorted(MigrateRequest.model_fields),
    "verify": sorted(VerifyRequest.model_fields),
}
FILE_FIELDS = (
    *("certificate", "private_key", "ec2_certificate"),
    *("overlay", "script", "report", "fstab", "grub_config"),
)

Body = dict[str, Any]


@dataclass(kw_only=True)
class Verdict:
    """The counts of a run."""

    seed: int
    outcomes: Counter[str] = field(default_factory=Counter)
    """Messages by the code of their result; `left` are dead letters without one."""
    seconds: float = 0.0


class Watch:
    """Notes each file that anybody opens or reads in some directories."""

    def __init__(self, directories: Sequence[Path]) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._file = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        for directory in directories:
            if libc.inotify_add_watch(self._file, os.fsencode(directory), IN_OPEN | IN_ACCESS) < 0:
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(directory))

    def close(self) -> None:
        os.close(self._file)

    def seen(self) -> list[str]:
        """The names of the files in the directories that were opened since."""
        names = []
        with suppress(BlockingIOError):
            while events := os.read(self._file, 1 << 16):
                while events:
                    _, _, _, length = struct.unpack_from("iIII", events)
                    names.append(events[16 : 16 + length].rstrip(b"\0").decode())
                    events = events[16 + length :]
        return names


class Trap:
    """A port at which a forged endpoint points: nobody may connect."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._socket.setblocking(False)
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"

    def close(self) -> None:
        self._socket.close()

    def was_met(self) -> bool:
        with suppress(BlockingIOError):
            self._socket.accept()[0].close()
            return True
        return False


@dataclass(frozen=True, kw_only=True)
class Scene:
    """The places that messages name."""

    root: Path
    outside: Path
    bucket: str
    manifest: str
    trap: str
    keys: KeyRing


class Writer:
    """Makes messages by chance."""

    def __init__(self, scene: Scene, seed: int) -> None:
        self._scene = scene
        self._dice = random.Random(seed)
        self._kinds: list[Callable[[int], str]] = [
            self._noise,
            self._cut,
            self._foreign,
            self._deep,
            self._long,
            self._other_version,
            self._other_shape,
            *[self._outside] * 5,
            *[self._forged] * 2,
            *[self._odd_field] * 5,
        ]

    def message(self, number: int) -> str:
        if number % GOOD_EVERY == 0:
            return json.dumps(self.good(number))
        return self._dice.choice(self._kinds)(number)

    def good(self, number: int) -> Body:
        request = {"manifest": self._scene.manifest} if number % 2 else self._bundle(number)
        return self._body(number, "verify" if number % 2 else "bundle", request, name=f"good-{number}")

    def _body(self, number: int, kind: str, request: Body, name: str = "") -> Body:
        return {"v": 1, "job": name or f"odd-{number}", "kind": kind, "request": request}

    def _bundle(self, number: int) -> Body:
        scene = self._scene
        to = f"s3://{scene.bucket}/made/{number}"
        return {
            "source": str(scene.root / "disk.img"),
            "destinations": [to],
            **owner(scene.keys),
            "register_image": False,
        }

    def _convert(self) -> Body:
        return {"source": str(self._scene.root / "disk.img"), "ami_name": "odd", "register_image": False}

    def _migrate(self, number: int) -> Body:
        given = owner(self._scene.keys)
        del given["account"]
        to = f"s3://{self._scene.bucket}/copied/{number}"
        return {"manifest": self._scene.manifest, "destinations": [to], "region": "eu-west-1", **given}

    def _any(self, number: int) -> Body:
        """A message that is good, of any kind."""
        kind = self._dice.choice(("bundle", "verify", "migrate", "convert"))
        requests = {
            "bundle": self._bundle(number),
            "verify": {"manifest": self._scene.manifest},
            "migrate": self._migrate(number),
            "convert": self._convert(),
        }
        return self._body(number, kind, requests[kind])

    def _noise(self, _: int) -> str:
        letters = "".join(map(chr, range(32, 127))) + "\t\n\réß中\uffee😀"
        return "".join(self._dice.choices(letters, k=self._dice.choice((1, 3, 200, 5000))))

    def _cut(self, number: int) -> str:
        text = json.dumps(self._any(number))
        if self._dice.random() < 0.5:
            return text[: self._dice.randrange(1, len(text))]
        at = self._dice.randrange(len(text))
        return text[:at] + self._dice.choice('{}[]":,0\\\x7f') + text[at + self._dice.randrange(2) :]

    def _foreign(self, _: int) -> str:
        event = {"eventSource": "aws:s3", "s3": {"bucket": {"name": self._scene.bucket}, "object": {"key": "x"}}}
        return self._dice.choice(
            (
                json.dumps({"Records": [event]}),
                json.dumps({"Type": "Notification", "Message": json.dumps(self._any(1)), "Signature": "x"}),
                json.dumps({"version": "0", "id": "1", "detail-type": "x", "source": "aws.ec2", "detail": {}}),
                '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/shadow">]><a>&b;</a>',
                "job: web\nkind: !!python/object/apply:os.system ['id']\n",
                "gASVIAAAAAAAAACMBXBvc2l4lIwGc3lzdGVtlJOUjAJpZJSFlFKULg==",
                "null",
                "[]",
                '"web"',
                "0",
                "${jndi:ldap://127.0.0.1/x}",
                "$(touch /tmp/x); `id`",
            )
        )

    def _deep(self, number: int) -> str:
        depth = self._dice.choice((50, 300, 3000, 30_000))
        nested = self._dice.choice(("[" * depth + "]" * depth, '{"a":' * depth + "1" + "}" * depth, "[" * depth))
        place = self._dice.choice(("{}", '{"v": 1, "job": "deep", "kind": "verify", "request": {}}', ""))
        if not place:
            return f'{{"v": 1, "job": "odd-{number}", "kind": "verify", "request": {{"manifest": {nested}}}}}'
        return place.replace("{}", nested, 1)

    def _long(self, number: int) -> str:
        body = self._any(number)
        size = self._dice.choice((64 << 10, (64 << 10) + 1, 65 << 10, 250 << 10))
        match self._dice.randrange(3):
            case 0:
                body["label"] = "x" * size
            case 1:
                body["request"]["exclude"] = ["y" * 200] * (size // 210)
            case _:
                return json.dumps(body) + " " * size
        return json.dumps(body)

    def _other_version(self, number: int) -> str:
        body = self._any(number)
        version: Any = self._dice.choice((0, -1, 1.0, 1.5, True, "1", None, [], 10**40, 2, 99))
        return json.dumps({**body, "v": version})

    def _other_shape(self, number: int) -> str:
        body = self._any(number)
        name = self._dice.choice(("v", "job", "kind", "request", "label", "deadline", "more"))
        if self._dice.random() < 0.3:
            body.pop(name, None)
            return json.dumps(body)
        odd = self._odd()
        text = json.dumps({**body, name: odd})
        if self._dice.random() < 0.2:
            # The same name twice.
            text = text[:-1] + f', "{name}": {json.dumps(self._odd())}}}'
        return text

    def _outside(self, number: int) -> str:
        scene, dice = self._scene, self._dice
        name = scene.outside.name
        places = (
            f"{scene.outside}/secret.img",
            f"{scene.root}/../{name}/secret.img",
            f"{scene.root}/./../{name}/secret.img",
            f"{scene.root}//..//{name}//secret.img",
            f"{scene.root}/link.img",
            f"{scene.root}/links/secret.img",
            f"{scene.root}/links",
            f"{scene.root}/pipe",
            f"{scene.root}-other/secret.img",
            str(scene.outside),
            f"file://{scene.outside}/secret.img",
            f"{scene.outside}/secret.img\0.img",
            f"{scene.root}/../../../../../../../../etc/shadow",
            "/etc/shadow",
            "/proc/self/environ",
            "/proc/1/root/etc/shadow",
            "/dev/mem",
            "/dev/stdin",
            "-",
            "~/x",
            "relative.img",
            "snap-0123456789abcdef0",
            "s3://others/secret/image.manifest.xml",
            f"s3://{scene.bucket}-other/x.manifest.xml",
            f"s3://{scene.bucket}/../others/x.manifest.xml",
            f"s3://{scene.bucket}/none/%2e%2e/x.manifest.xml",
            "https://127.0.0.1/x.manifest.xml",
        )
        body = self._any(number)
        request = body["request"]
        fields = [each for each in ("source", "manifest", "destinations") if each in request]
        fields += [each for each in FILE_FIELDS if each in FIELDS[body["kind"]]]
        for _ in range(dice.choice((1, 1, 2))):
            chosen = dice.choice(fields)
            place = dice.choice(places)
            request[chosen] = [place] if chosen == "destinations" else place
            if chosen in {"source", "manifest"} and dice.random() < 0.5:
                request.update(certificate=str(scene.keys.user.certificate), private_key=str(scene.keys.user.key))
        return json.dumps(body)

    def _forged(self, number: int) -> str:
        body = self._any(number)
        forged = {
            "endpoint_url": self._scene.trap,
            "source_endpoint_url": self._scene.trap,
            "region": self._dice.choice(
                ("cn-north-1", f"x.{self._scene.trap[7:]}/", "eu-west-1@evil", "us-gov-west-1")
            ),
            "source_profile": "admin",
            "kms_key_id": "arn:aws:kms:eu-west-1:999999999999:key/x",
            "kind": "convert",
        }
        for name in self._dice.sample(sorted(forged), self._dice.choice((1, 2))):
            body["request"][name] = forged[name]
        return json.dumps(body)

    def _odd_field(self, number: int) -> str:
        body = self._any(number)
        request = body["request"]
        names = (*FIELDS[body["kind"]], "unknown")
        for _ in range(self._dice.choice((1, 1, 3))):
            request[self._dice.choice(names)] = self._odd()
        return json.dumps(body)

    def _odd(self) -> Any:
        dice = self._dice
        return dice.choice(
            (
                *(None, True, [], {}, "", " ", "\0", "\ud800", "a\ud83dz", "\u202e", "é" * 300, "x" * 20_000),
                *(0, -1, 1, 2**31, 2**63, 2**64, 10**400, -(10**400), 1e308, 0.1, "1e400", "99999999999GiB", "-1KiB"),
                *(["a"] * 5000, {"a": {"b": []}}, [["a"]], {"\0": 1}, ["\ud800"], "../..", "a/../b", "%s%n", "{0}"),
                *("2026-11-29T06:00Z", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59+14:00", "20261129-060000-abcdef"),
            )
        )


class FleetFuzz:
    """A run in one directory, with a bucket of its own."""

    def __init__(self, directory: Path, endpoint: Endpoint, queues: Queues, keys: KeyRing) -> None:
        self._directory = directory
        self._endpoint = endpoint
        self._queues = queues
        self._keys = keys
        self._bucket = f"fuzz-{os.urandom(4).hex()}"
        self._host = Host(name="host", directory=directory / "host")
        self._outcomes: dict[str, str] = {}
        self._sent: dict[str, str] = {}
        """Bodies by the id of their message."""

    def run(self, messages: int, seed: int) -> Verdict:
        with ExitStack() as stack:
            create_bucket(self._endpoint, self._bucket)
            stack.callback(remove_bucket, self._endpoint, self._bucket)
            trap = Trap()
            stack.callback(trap.close)
            scene = self._scene(trap.url)
            writer = Writer(scene, seed)
            watch = Watch([scene.outside])
            stack.callback(watch.close)
            self._host.start(self._endpoint, self._settings(scene))
            stack.callback(self._host.running.stop)
            self._host.wait_ready()
            pid = self._host.running.pid
            began = time.monotonic()
            self._send(json.dumps(writer.good(-1)))
            self._wait_all()
            before = self._opened()
            for number in range(messages):
                self._send(writer.message(number))
            self._wait_all()
            self._send(json.dumps(writer.good(-2)))
            self._wait_all()
            seen = watch.seen()
            assert seen == [], seen
            assert not trap.was_met()
            assert self._host.health()["queue"]["status"] == "ok"
            assert (self._host.running.pid, self._host.starts) == (pid, 1)
            opened = self._opened()
            assert opened.total() <= before.total() + OPENED_ONCE, opened - before
            self._judge_texts()
        return Verdict(seed=seed, outcomes=Counter(self._outcomes.values()), seconds=round(time.monotonic() - began, 1))

    def _scene(self, trap: str) -> Scene:
        root, outside = self._directory / "root", self._directory / "outside"
        made = older_bundle(self._directory / "old", self._keys, [3000, 3000, 100])
        put_files(self._endpoint, self._bucket, made.parent)
        root.mkdir()
        outside.mkdir()
        random_image(root / "disk.img", 300_000)
        (outside / "secret.img").write_bytes(b"secret of the host" * 4000)
        (root / "link.img").symlink_to(outside / "secret.img")
        (root / "links").symlink_to(outside)
        os.mkfifo(root / "pipe")
        return Scene(
            root=root,
            outside=outside,
            bucket=self._bucket,
            manifest=f"s3://{self._bucket}/{made.name}",
            trap=trap,
            keys=self._keys,
        )

    def _settings(self, scene: Scene) -> dict[str, object]:
        settings = self._queues.settings(
            queue_sources=f"{scene.root},s3://{self._bucket}",
            queue_destinations=f"s3://{self._bucket}",
            queue_kinds="bundle,verify,migrate,convert",
            queue_visibility_s=VISIBILITY_S,
            queue_jobs=4,
            source_roots=f"{scene.root}:{self._keys.user.key.parent}",
            upload_attempts=2,
        )
        del settings["endpoint_url"]
        return settings

    def _send(self, body: str) -> None:
        with self._endpoint.blocking_client("sqs") as sqs:
            message_id = sqs.send_message(QueueUrl=self._queues.jobs, MessageBody=body)["MessageId"]
        self._sent[message_id] = body

    def _wait_all(self) -> None:
        """Wait until each message has a result or is a dead letter."""
        deadline = time.monotonic() + PATIENCE_S
        unread: Counter[str] = Counter()
        while True:
            results, letters = self._queues.take_results(wait_s=1), self._queues.letters()
            for result in results:
                message_id = result["message"]
                body = self._sent[message_id]
                if '"good-' in body:
                    assert result["outcome"] == "done", result
                self._outcomes[message_id] = result["code"] or result["outcome"]
            # A dead letter of this daemon has a code, and a result beside it.
            unread.update(each["body"] for each in letters if "code" not in each)
            left = {message_id: body for message_id, body in self._sent.items() if message_id not in self._outcomes}
            for message_id, body in left.items():
                if unread[body]:
                    unread[body] -= 1
                    self._outcomes[message_id] = "left"
            if len(self._outcomes) == len(self._sent) and not self._queues.left():
                return
            if results or letters:
                deadline = time.monotonic() + PATIENCE_S
            assert time.monotonic() < deadline, [body[:500] for body in left.values()]

    def _opened(self) -> Counter[str]:
        """The files that the daemon has open, without sockets."""
        names = []
        for path in Path(f"/proc/{self._host.running.pid}/fd").iterdir():
            with suppress(FileNotFoundError):
                name = str(path.readlink()).partition(":")[0]
                # Connections are kept for the next request.
                names += [name] * (name != "socket")
        return Counter(names)

    def _judge_texts(self) -> None:
        log = self._host.running.output()
        assert [each for each in BUGS if each in log] == []
        for secret in (self._endpoint.secret_key, "secret of the host", self._keys.user.key.read_text()[100:150]):
            assert secret not in log


def fuzz(messages: int, seed: int, directory: Path, endpoint: Endpoint, keys: KeyRing) -> Verdict:
    """Send so many messages. Raises AssertionError if something is wrong."""
    with open_queues(endpoint, most_receives=3) as queues:
        return FleetFuzz(directory, endpoint, queues, keys).run(messages, seed)


def main() -> None:
    script = Script(__doc__)
    script.add_argument("--messages", type=int, default=500)
    script.add_seed()
    script.add_directory()
    options = script.parse_args()
    with ExitStack() as stack:
        directory = stack.enter_context(working_directory("fleet-fuzz", options.directory))
        (directory / "keys").mkdir(exist_ok=True)
        keys = make_keys(directory / "keys")
        endpoint = stack.enter_context(run_ministack())
        script.put(fuzz(options.messages, options.seed, directory, endpoint, keys), seed=options.seed)


if __name__ == "__main__":
    main()
