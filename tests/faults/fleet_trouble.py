"""Gives a real daemon trouble with its queue, one kind after the other, while it has a job of that queue.

    python tests/faults/fleet_trouble.py
    python tests/faults/fleet_trouble.py --seconds 120 --only away,deleted

The queue is away, throttles, has too many messages in flight, denies access, is deleted and made again; the credentials
expire and are replaced in their file; and at the start there are none. Each time the job goes on, and health, the line
for `systemctl status` and the log have the reason. When all is well again, they say so, the job is done, and the next
message is received.
"""

from __future__ import annotations

import socket
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
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
from support.proxy import Answer, Fault, FaultProxy, PauseRequest, Reset

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.endpoints import Endpoint
    from support.fleet_queues import Queues
    from support.keys import KeyRing
    from support.proxy import Action

BUCKET = "fleet-trouble"
PATIENCE_S = 150.0
"""Longer than the longest pause between two polls."""
VISIBILITY_S = 300
_ANY = "(?i)x-amz-target: amazonsqs."
TROUBLES: dict[str, tuple[Action, str]] = {
    "away": (Reset(after=0), "aws.unreachable"),
    "throttled": (Answer(status=400, code="ThrottlingException"), "aws.ThrottlingException"),
    "request throttled": (Answer(status=400, code="RequestThrottled"), "aws.RequestThrottled"),
    "over limit": (Answer(status=400, code="OverLimit"), "aws.OverLimit"),
    "denied": (Answer(status=400, code="AccessDeniedException"), "aws.AccessDeniedException"),
    "unwell": (Answer(status=503, code="ServiceUnavailable"), "aws.ServiceUnavailable"),
}
"""Faults of the proxy for each request to the queues, and the code that health has then."""
ALL = ("no credentials", *TROUBLES, "expired", "deleted")


@dataclass
class Line:
    """The daemon's line in `systemctl status`."""

    manager: socket.socket
    last: str = ""

    def now(self) -> str:
        while True:
            try:
                text = self.manager.recv(4096).decode()
            except BlockingIOError:
                return self.last
            for line in text.splitlines():
                self.last = line.removeprefix("STATUS=") if line.startswith("STATUS=") else self.last


class Trouble:
    """The daemon and its queue. Each kind of trouble is a method or an entry of `TROUBLES`."""

    def __init__(self, directory: Path, endpoint: Endpoint, queues: Queues, keys: KeyRing, seconds: float) -> None:
        self._directory = directory
        self._endpoint = endpoint
        self._queues = queues
        self._seconds = seconds
        self._host = Host(name="host", directory=directory / "host")
        self._credentials = directory / "credentials"
        self._made = older_bundle(directory / "old", keys, [3000, 3000, 100])
        self._proxy = FaultProxy(endpoint)
        self._jobs = 0

    def run(self, names: list[str]) -> None:
        create_bucket(self._endpoint, BUCKET)
        put_files(self._endpoint, BUCKET, self._made.parent)
        self._host.directory.mkdir()
        path = self._directory / "notify"
        try:
            with self._proxy, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
                manager.bind(str(path))
                manager.setblocking(False)
                self._line = Line(manager)
                self._start(path, with_credentials="no credentials" not in names)
                try:
                    for name in names:
                        self._one(name)
                finally:
                    self._host.running.stop()
        finally:
            remove_bucket(self._endpoint, BUCKET)

    def _start(self, notify: Path, *, with_credentials: bool) -> None:
        by_proxy = self._queues.jobs.replace(self._endpoint.url, self._proxy.url)
        settings = self._queues.settings(
            queue_url=by_proxy,
            queue_visibility_s=VISIBILITY_S,
            # A request of the job is held for the length of each trouble.
            stall_timeout_s=20 + 2 * self._seconds,
            upload_attempts=2,
        )
        del settings["endpoint_url"]
        if with_credentials:
            self._write_credentials()
        environ = {
            "NOTIFY_SOCKET": str(notify),
            "AWS_SHARED_CREDENTIALS_FILE": str(self._credentials),
            "AWS_ACCESS_KEY_ID": "",
            "AWS_SECRET_ACCESS_KEY": "",
            # The bucket too, where the job's requests are held.
            "AWS_ENDPOINT_URL": self._proxy.url,
        }
        self._host.start(self._endpoint, settings, **environ)
        self._host.wait_ready()

    def _one(self, name: str) -> None:
        began = time.monotonic()
        match name:
            case "no credentials":
                self._see("aws.credentials")
                self._write_credentials()
                self._see_well()
            case "expired":
                self._with_a_job(self._expire, "aws.ExpiredToken", lambda: self._write_credentials("second"))
            case "deleted":
                self._with_a_job(self._delete, "aws.QueueDoesNotExist", self._make_again)
            case _:
                action, code = TROUBLES[name]
                fault = Fault(action=action, method="POST", header=_ANY, times=None)
                self._with_a_job(lambda: self._break(fault), code, lambda: self._proxy.mend(fault))
        self._next_job()
        print(f"{name}: {time.monotonic() - began:.0f} s", flush=True)  # noqa: T201 - progress

    def _with_a_job(self, harm: Callable[[], object], code: str, mend: Callable[[], object]) -> None:
        held = Fault(action=PauseRequest(), method="HEAD", path=".*part.1", times=None)
        self._proxy.add(held)
        self._send()
        self._proxy.wait_hit(held)
        harm()
        # Else it notices at the end of its poll.
        self._proxy.hang_up()
        until = time.monotonic() + self._seconds
        self._see(code)
        while time.monotonic() < until:
            self._see(code)
            time.sleep(0.5)
        assert self._host.health()["queue"]["jobs"] == 1
        self._proxy.mend(held)
        self._proxy.let_go(held)
        mend()
        self._result(attempt=1)
        self._see_well()

    def _send(self) -> None:
        self._jobs += 1
        self._queues.send(f"job-{self._jobs}", "verify", manifest=f"s3://{BUCKET}/{self._made.name}")

    def _next_job(self) -> None:
        self._send()
        self._result(attempt=1)

    def _result(self, *, attempt: int) -> None:
        (result,) = self._queues.wait_results(1)
        assert (result["job"], result["outcome"], result["attempt"]) == (f"job-{self._jobs}", "done", attempt), result

    def _see(self, code: str) -> None:
        """Wait until health, status line and log have the trouble."""
        queue = self._wait(lambda health: code in {each["code"] for each in health["errors"]}, code)
        assert queue["status"] == "trouble"
        (message,) = [each["message"] for each in queue["errors"] if each["code"] == code][:1]
        until = time.monotonic() + PATIENCE_S
        # Its reason may be that of an earlier request.
        while message.partition(":")[0] not in self._line.now():
            assert time.monotonic() < until, (message, self._line.last)
            time.sleep(0.05)
        assert code in self._host.running.output()

    def _see_well(self) -> None:
        self._wait(lambda health: health["status"] == "ok", "ok")
        until = time.monotonic() + PATIENCE_S
        while "cannot" in self._line.now():
            assert time.monotonic() < until, self._line.last
            time.sleep(0.05)
        assert "queue.recovered" in self._host.running.output()

    def _wait(self, condition: Callable[[dict[str, Any]], bool], what: str) -> dict[str, Any]:
        until = time.monotonic() + PATIENCE_S
        found: dict[str, Any]
        while not condition(found := self._host.health()["queue"]):
            assert time.monotonic() < until, f"no {what}: {found}"
            time.sleep(0.05)
        return found

    def _break(self, fault: Fault) -> None:
        self._proxy.add(fault)

    def _write_credentials(self, session: str = "first") -> None:
        keys = {
            "aws_access_key_id": self._endpoint.access_key,
            "aws_secret_access_key": self._endpoint.secret_key,
            "aws_session_token": session,
        }
        new = self._directory / "new"
        new.write_text("\n".join(["[default]", *(f"{name} = {value}" for name, value in keys.items()), ""]))
        new.rename(self._credentials)

    def _expire(self) -> None:
        """Refuse the credentials that the daemon has."""
        answer = Answer(status=400, code="ExpiredToken", message="The security token has expired")
        header = "x-amz-security-token: first"
        self._break(Fault(action=answer, method="POST", header=header, times=None))

    def _delete(self) -> None:
        with self._endpoint.blocking_client("sqs") as sqs:
            sqs.delete_queue(QueueUrl=self._queues.jobs)

    def _make_again(self) -> None:
        with self._endpoint.blocking_client("sqs") as sqs:
            sqs.create_queue(QueueName=self._queues.jobs.rpartition("/")[2])


def main() -> None:
    script = Script(__doc__)
    script.add_argument("--seconds", type=float, default=10.0, metavar="S", help="of each kind (default: 10)")
    script.add_argument("--only", default=",".join(ALL), metavar="NAMES", help=f"of {', '.join(ALL)}")
    options = script.parse_args()
    with ExitStack() as stack:
        directory = stack.enter_context(working_directory("fleet-trouble"))
        endpoint = stack.enter_context(run_ministack())
        queues = stack.enter_context(open_queues(endpoint))
        Trouble(directory, endpoint, queues, make_keys(directory), options.seconds).run(options.only.split(","))


if __name__ == "__main__":
    main()
