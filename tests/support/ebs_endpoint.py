"""A strict double of the EBS direct APIs, with the EC2 and STS requests around them, in a process of its own.

Fixtures (`conftest.py`):

    ebs_server     session: the process, an `EbsServer`; `ebs_server.account(...)` opens further accounts
    ebs_endpoint   function: an `EbsEndpoint`, a fresh account of its own that the test's end removes

An `EbsEndpoint` is an `Endpoint`: it has `url`, `region`, `access_key`, `secret_key`, `environ()`, `client("ebs")`,
`blocking_client("ec2")`, and a fault proxy can stand in front of it. An account is what one access key sees:
snapshots, images, knobs, faults and clock, so that tests that run at the same time do not meet.
`ebs_server.account(like=seaweedfs)` opens an account with the credentials of another endpoint, for jobs that use both,
and passes requests of S3 on to that: one `--endpoint-url` serves a bundle in S3 and the snapshot made of it. Two tests
that do so with the same endpoint must not run at the same time in one process, and pytest does not.

Its methods, each a request to the control URL of the account, `URL/_control/ACCESS_KEY`, JSON in and out, unsigned:

    set(**knobs)                 PUT    {knob: value, ...}              the knobs of `support.ebs.knobs.Knobs`
    fault(operation, **how)      POST   .../faults {operation, ...}     the fields of `support.ebs.knobs.Fault`
    clear_faults()               DELETE .../faults
    let_go()                     POST   .../let-go                      requests that the fault `pause` holds
    wait_paused(count)           GET    (polls state() until so many requests are paused)
    wait_for(operation, count)   GET    (polls state() until so many requests have come)
    advance(seconds)             POST   .../advance {seconds}           moves the account's clock
    expire_tokens()              POST   .../expire-tokens               those given out so far
    set_state(id, state)         PUT    .../snapshots/ID {state, message}
    set_image_state(id, state)   PUT    .../images/ID {state, reason}
    make_snapshot(file, ...)     POST   .../snapshots {file, volume_gib, tags, key}    completed, without zero blocks
    state()                      GET    {account, knobs, faults, snapshots, images, orphans, counts, paused,
                                         in_flight, most_in_flight}     counts: requests by operation;
                                                                        in_flight: puts at a time, now and at most
    snapshots(), images(), orphans(), snapshot(id): parts of state()
    requests()                   GET    .../requests    [{time, operation, snapshot, index, status, code}]

A snapshot in `state()` is {id, state, message, volume_gib, puts, distinct, blocks, progress, parent, key, tags, words,
file}: `puts` accepted, `distinct` indices among them, `words` of StartSnapshot, and `file`, a sparse file of the
volume's size with the bytes that were put. An image has the names of DescribeImages on the wire, beside `tags` and
`snapshots`. `orphans` are the snapshots that no image uses.

`read_back` copies a snapshot into a file by ListSnapshotBlocks and GetSnapshotBlock, with a plain SDK client.

With `discard=True` only lengths, places and states are checked, and a put costs the double 0.2 ms of CPU time.

What is checked, beyond the shapes of botocore's model `ebs/2019-11-02`:

- Signature Version 4 with this account's secret: service, region, day, X-Amz-Date within 15 minutes, all x-amz-*
  headers signed, the body signed or, for PutSnapshotBlock only, UNSIGNED-PAYLOAD.
- StartSnapshot: members and their limits, ClientToken of at most 64 ASCII characters (the same with other words is a
  ConflictException, with the same words the first answer again, even if the snapshot is gone), Encrypted against
  ParentSnapshotId, the parent's state, size and encryption, 100 pending snapshots.
- PutSnapshotBlock: a pending snapshot, 524288 bytes, x-amz-Data-Length, SHA-256, an index within VolumeSize, no two
  puts of one block at a time. A pending block may be put again. No put after CompleteSnapshot.
- CompleteSnapshot: the count of distinct blocks put, the LINEAR SHA-256 over their raw digests in ascending order (if
  given), no put in flight. It answers 202 and `pending`; the snapshot is completed when it is looked at next, or later
  by a knob. Again, it is refused.
- Timeout: a pending snapshot without a put for so long is in `error`.
- Listing and reading: completed snapshots only, sorted pages, block tokens that are new with each listing.
- RegisterImage: the snapshot is completed, a free and legal name, the root in the mappings, no Encrypted with a
  SnapshotId, sizes, choices; Architecture is i386 and VirtualizationType paravirtual unless given. DryRun after that.
- DeleteSnapshot of a snapshot that an image uses: InvalidSnapshot.InUse.

AWS has a refusal that looks like a mistake of the client and is none: a body that comes too slowly is a
ValidationException, 400, "Failed to read block data", Reason INVALID_PARAMETER_VALUE (seen in nanovms/ops #1268, where
the next attempt cured it). `fault("PutSnapshotBlock", **SLOW_BODY)` plays it.

Not known of AWS, and decided here on the strict side: a wrong count or checksum in CompleteSnapshot is refused with
ValidationException (the knob `wrong_completion="error"` answers 202 and ends in `error`); so is a put to, or a second
completion of, a snapshot that is no longer pending (Reason INVALID_SNAPSHOT_ID).
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import itertools
import json
import secrets
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

from support.endpoints import REGION, Endpoint, announced_port, running, workplace

BLOCK = 512 * 1024
SLOW_BODY: dict[str, Any] = {
    "code": "ValidationException",
    "status": 400,
    "message": "Failed to read block data",
    "reason": "INVALID_PARAMETER_VALUE",
}
WAIT_SECONDS = 120.0
TICK_S = 0.005
_TESTS = Path(__file__).parents[1]


@dataclass(frozen=True, kw_only=True)
class EbsEndpoint(Endpoint):
    """One account of the double."""

    has_sts: bool = True
    checks_signatures: bool = True
    checks_checksums: bool = True
    honours_dry_run: bool = True
    registers_images: bool = True
    keeps_image_details: bool = True
    account_id: str = ""

    def set(self, **knobs: Any) -> None:
        """Turn knobs; the others stay as they are."""
        self._control("PUT", "", knobs)

    def fault(self, operation: str, do: str = "error", **how: Any) -> None:
        """Let the `nth` request of an operation meet a fault, and the `times` - 1 after it (None: all after it)."""
        self._control("POST", "/faults", {"operation": operation, "do": do, **how})

    def clear_faults(self) -> None:
        self._control("DELETE", "/faults")

    def let_go(self) -> None:
        """Let all requests that are paused go on."""
        self._control("POST", "/let-go")

    def wait_paused(self, count: int = 1) -> None:
        self._wait(lambda state: state["paused"] >= count, f"{count} requests are paused")

    def wait_for(self, operation: str, count: int = 1) -> None:
        """Wait until the heads of so many requests of an operation have come."""
        what = f"{count} requests of {operation} have come"
        self._wait(lambda state: state["counts"].get(operation, 0) >= count, what)

    def _wait(self, condition: Callable[[dict[str, Any]], bool], what: str) -> None:
        deadline = time.monotonic() + WAIT_SECONDS
        while not condition(self.state()):
            assert time.monotonic() < deadline, f"not after {WAIT_SECONDS:.0f} s: {what}"
            time.sleep(TICK_S)

    def advance(self, seconds: float) -> None:
        """Move the account's clock: ages of snapshots and tokens, and the allowance of puts."""
        self._control("POST", "/advance", {"seconds": seconds})

    def expire_tokens(self) -> None:
        self._control("POST", "/expire-tokens")

    def set_state(self, snapshot: str, state: str, message: str = "") -> None:
        self._control("PUT", f"/snapshots/{snapshot}", {"state": state, "message": message})

    def set_image_state(self, image: str, state: str, reason: str = "") -> None:
        self._control("PUT", f"/images/{image}", {"state": state, "reason": reason})

    def make_snapshot(self, file: Path, **more: Any) -> str:
        """Make a completed snapshot of a file without a request for each block; returns its id."""
        made = self._control("POST", "/snapshots", {"file": str(file), **more})
        return str(made["id"])

    def state(self) -> dict[str, Any]:
        return cast("dict[str, Any]", self._control("GET"))

    def snapshots(self) -> list[dict[str, Any]]:
        return cast("list[dict[str, Any]]", self.state()["snapshots"])

    def snapshot(self, name: str) -> dict[str, Any]:
        return next(each for each in self.snapshots() if each["id"] == name)

    def images(self) -> list[dict[str, Any]]:
        return cast("list[dict[str, Any]]", self.state()["images"])

    def orphans(self) -> list[str]:
        return cast("list[str]", self.state()["orphans"])

    def requests(self, operation: str = "") -> list[dict[str, Any]]:
        """Return the requests so far, of one operation or all; the status of those that hang is 0."""
        found = cast("list[dict[str, Any]]", self._control("GET", "/requests"))
        return [each for each in found if operation in {"", each["operation"]}]

    def _control(self, method: str, path: str = "", told: dict[str, Any] | None = None) -> Any:
        return control(self.url, method, f"/{self.access_key}{path}", told)


def control(url: str, method: str, path: str, told: dict[str, Any] | None = None) -> Any:
    """Send one control request; raise AssertionError if it is refused."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
    try:
        connection.request(method, f"/_control{path}", json.dumps(told or {}))
        reply = connection.getresponse()
        answer = json.loads(reply.read())
    finally:
        connection.close()
    assert reply.status == 200, answer
    return answer


@dataclass(frozen=True)
class EbsServer:
    """The running process."""

    url: str
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(200_000_000_001), repr=False)

    @contextmanager
    def account(self, *, like: Endpoint | None = None, **knobs: Any) -> Iterator[EbsEndpoint]:
        """Open an account until the block ends.

        `like` another endpoint: with its credentials and region, and passing requests of S3 on to it.
        """
        access_key, secret_key = f"AKIA{next(self._numbers)}", secrets.token_hex(20)
        if like is not None:
            access_key, secret_key = like.access_key, like.secret_key
            knobs = {"s3_url": like.url} | knobs
        assert access_key not in control(self.url, "GET", "")["accounts"], f"{access_key} has an account already"
        region = like.region if like is not None else REGION
        told = {"secret_key": secret_key, "region": region, **knobs}
        account = control(self.url, "PUT", f"/{access_key}", told)["account"]
        endpoint = EbsEndpoint(
            name="ebs",
            url=self.url,
            access_key=access_key,
            secret_key=secret_key,
            region=region,
            account_id=account,
        )
        try:
            yield endpoint
        finally:
            control(self.url, "DELETE", f"/{access_key}")


@contextmanager
def run_ebs() -> Iterator[EbsServer]:
    """Run the double on a port of its own choice."""
    with workplace("ebs") as directory:
        argv = [sys.executable, "-m", "support.ebs.server", str(directory / "snapshots")]
        with running(argv, directory=directory, environ={"PYTHONPATH": str(_TESTS)}) as process:
            yield EbsServer(f"http://127.0.0.1:{announced_port(process)}")


def read_back(endpoint: Endpoint, snapshot: str, to: Path) -> list[int]:
    """Copy a snapshot into a sparse file of the volume's size, checksums checked; return the indices of its blocks."""
    indices: list[int] = []
    page: dict[str, str] = {}
    with endpoint.blocking_client("ebs") as ebs, to.open("wb") as file:
        while True:
            listed = ebs.list_snapshot_blocks(SnapshotId=snapshot, **page)
            file.truncate(listed["VolumeSize"] << 30)
            for each in listed["Blocks"]:
                index = each["BlockIndex"]
                assert not indices or index > indices[-1], f"block {index} is listed after block {indices[-1]}"
                found = ebs.get_snapshot_block(SnapshotId=snapshot, BlockIndex=index, BlockToken=each["BlockToken"])
                data = found["BlockData"].read()
                assert found["DataLength"] == len(data) == BLOCK
                assert found["ChecksumAlgorithm"] == "SHA256"
                assert base64.b64decode(found["Checksum"]) == hashlib.sha256(data).digest()
                file.seek(index * BLOCK)
                file.write(data)
                indices.append(index)
            if "NextToken" not in listed:
                return indices
            page = {"NextToken": listed["NextToken"]}
