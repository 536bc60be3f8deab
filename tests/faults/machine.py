"""A place where real daemons run one after the other, against a bucket behind a proxy that misbehaves on command."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from support.daemons import Daemon, identity, owner, running_daemon
from support.referee import check_bundle

if TYPE_CHECKING:
    from faults.ground import Ground
    from support.keys import KeyRing
    from support.proxy import Fault, FaultProxy
    from support.referee import Bundle

PATIENCE_S = 120
QUICK: dict[str, object] = {
    "part_size": "256KiB",
    "block_size": "64KiB",
    "upload_concurrency": 1,
    "upload_attempts": 3,
    "backoff_base_s": 0.01,
    "backoff_cap_s": 0.05,
    "register_poll_s": 0.01,
    "stall_timeout_s": 20,
}


@dataclass(kw_only=True)
class Machine:
    """A state directory that daemons use in turn, and a folder of a bucket behind a proxy."""

    directory: Path
    ground: Ground
    root: str
    proxy: FaultProxy
    keys: KeyRing
    image: Path
    got: int = 0

    @contextmanager
    def daemon(self, *, forked: bool = True, **settings: object) -> Iterator[Daemon]:
        # What a killed one left is not what the next one is waited for with.
        (self.directory / "amistream.sock").unlink(missing_ok=True)
        with running_daemon(self.directory, self.ground.endpoint, forked=forked, **{**QUICK, **settings}) as running:
            yield running

    def words(self, place: str) -> list[object]:
        """The words of `bundle`; the image's name is what the endpoint shows as its location, so that it is right."""
        return [
            *("bundle", self.image, "--to", f"s3://{self.ground.bucket}/{self.root}/{place}"),
            *("--endpoint-url", self.proxy.url, *identity(self.keys), "--ami-name", self.image_name(place)),
        ]

    def body(self, place: str) -> dict[str, Any]:
        """The same as a request to the socket, which takes a fraction of the command's time."""
        return {
            "source": str(self.image),
            "destinations": [f"s3://{self.ground.bucket}/{self.root}/{place}"],
            "endpoint_url": self.proxy.url,
            **owner(self.keys),
            "ami_name": self.image_name(place),
        }

    def submit(self, daemon: Daemon, place: str) -> str:
        return daemon.submit(**self.body(place))

    def image_name(self, place: str) -> str:
        return f"{self.ground.bucket}/{self.root}/{place}/image.manifest.xml"

    def left(self, place: str) -> list[str]:
        folder = f"{self.root}/{place}"
        return [*self.ground.keys(folder), *self.ground.uploads(folder)]

    def bundle(self, place: str) -> Bundle:
        """Assert that a right bundle is in `place` and nothing else."""
        self.got += 1
        got = self.directory / f"got-{self.got}"
        self.ground.fetch(f"{self.root}/{place}", got)
        assert not self.ground.uploads(f"{self.root}/{place}")
        return check_bundle(got, self.image, self.keys.user.key, self.keys.user.certificate)

    def fits(self, place: str) -> None:
        """The same, and that no part was stored twice."""
        for number in range(len(self.bundle(place).parts)):
            puts = self.proxy.seen("PUT", f".*/{place}/image\\.part\\.{number:02d}")
            assert [put.upstream_status for put in puts].count(200) == 1

    def held(self, fault: Fault) -> Fault:
        """Add a fault, counted from now on."""
        self.proxy.add(fault)
        return fault


def tell(daemon: Daemon, number: signal.Signals) -> None:
    os.kill(daemon.process.pid, number)


def exit_status(daemon: Daemon) -> int:
    return daemon.process._process.wait(PATIENCE_S)


def wait_log(daemon: Daemon, event: str) -> None:
    daemon.process.wait_ready(lambda: f'"{event}"' in daemon.process.output(), seconds=PATIENCE_S)


def kill(daemon: Daemon) -> None:
    tell(daemon, signal.SIGKILL)
    assert exit_status(daemon) == -signal.SIGKILL
