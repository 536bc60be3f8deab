"""Several runs of one job: an engine whose journal may fail or wait, and buckets whose endpoint may misbehave."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from amistream.aws.session import Aws
from amistream.errors import JournalError
from amistream.events import JobView, State
from amistream.jobs.engine import Engine
from amistream.jobs.job import Job
from amistream.jobs.journal import Journal
from amistream.jobs.records import NextStep, SealedPart
from amistream.request import BundleRequest, JobRequest
from amistream.settings import Settings
from jobs.work import request
from support.buckets import download_bundle, list_keys, open_uploads
from support.proxy import Answer, Fault
from support.referee import Bundle, check_bundle

if TYPE_CHECKING:
    from conftest import MakeBucket
    from support.endpoints import Endpoint
    from support.keys import KeyRing
    from support.proxy import Action, FaultProxy

REGISTER = "Action=RegisterImage&(?!.*DryRun)"
DENIED = Answer(status=403, code="AccessDenied")
ANEW = "starting over under a new key"
Fits = Callable[..., bool]
"""Chooses calls by their arguments."""


def at_state(state: State) -> Fits:
    """Chooses the call that records this state."""
    return lambda view: isinstance(view, JobView) and view.state is state


def at_part(number: int) -> Fits:
    """Chooses the call about this part."""
    return lambda _, part: isinstance(part, SealedPart) and part.digest.index == number


@dataclass(frozen=True)
class HeldCall:
    """The first call that fits sets `came` and waits for `go`."""

    came: asyncio.Event
    go: asyncio.Event


@dataclass(frozen=True, kw_only=True)
class Scene:
    """An engine, its journal, an image, and a directory for the image's bundle, which need not be used."""

    engine: Engine
    journal: Journal
    settings: Settings
    image: Path
    keys: KeyRing
    out: Path

    def request(self, to: str | Path = "", **changes: Any) -> BundleRequest:
        """A bundle of the image, by default to the directory."""
        return request(self.image, to or self.out, self.keys, **changes)

    async def enter(self, asked: JobRequest | None = None, *, confined: bool = False) -> Job:
        job = Job(asked or self.request(), confined=confined)
        await self.engine.enter(job)
        return job

    async def run(self, asked: JobRequest | None = None, *, room: int | None = None, confined: bool = False) -> Job:
        """A job's first run; with `room` for so many parts in the journal it fails after them."""
        job = await self.enter(asked, confined=confined)
        if room is None:
            await self.engine.run(job)
        else:
            with self.failing("seal", fits=lambda _, part: part.digest.index >= room):
                await self.engine.run(job)
        return job

    async def again(self, job: Job) -> Job:
        """Another run of the job, as after a restart: from the journal."""
        job = await self.remembered(job)
        await self.engine.run(job)
        return job

    async def clean(self, job: Job) -> Job:
        """Remove what the job left, as after a restart."""
        job = await self.remembered(job)
        await self.engine.clean(job)
        return job

    async def remembered(self, job: Job) -> Job:
        entry = await self.journal.find(job.id)
        assert entry is not None
        return Job.remembered(entry).again()

    async def next_step(self, job: Job) -> NextStep:
        entry = await self.journal.find(job.id)
        assert entry is not None
        return entry.next_step

    @contextmanager
    def failing(self, *methods: str, code: str = "journal.full", fits: Fits = lambda *_: True) -> Iterator[None]:
        """Let these calls of the journal fail; `conversions.METHOD` is one of the records of conversions."""

        async def fail() -> None:
            raise JournalError(code, "cannot keep the journal: database or disk is full")

        for method in methods:
            self._before(method, fits, fail)
        yield
        for method in methods:
            self._restore(method)

    @contextmanager
    def held(self, method: str, fits: Fits = lambda *_: True) -> Iterator[HeldCall]:
        """Hold the first such call of the journal before it happens."""
        call = HeldCall(asyncio.Event(), asyncio.Event())

        async def wait() -> None:
            if not call.came.is_set():
                call.came.set()
                await call.go.wait()

        self._before(method, fits, wait)
        yield call
        self._restore(method)

    def _before(self, method: str, fits: Fits, act: Callable[[], Awaitable[None]]) -> None:
        owner, name = self._owner(method)
        original = getattr(owner, name)

        async def acting(*values: Any) -> Any:
            if fits(*values):
                await act()
            return await original(*values)

        setattr(owner, name, acting)

    def _restore(self, method: str) -> None:
        delattr(*self._owner(method))

    def _owner(self, method: str) -> tuple[Any, str]:
        room, _, name = method.rpartition(".")
        return (getattr(self.journal, room) if room else self.journal), name

    async def stopped(self, job: Job, call: HeldCall, *, keep: bool = False) -> None:
        """Run the job, cancel or interrupt it at the held call as the queue does, and let that call continue."""
        running = asyncio.create_task(self.engine.run(job))
        await call.came.wait()
        job.cancel_requested, job.interrupt_requested = True, keep
        running.cancel()
        await asyncio.sleep(0)
        call.go.set()
        await asyncio.wait({running})
        assert running.cancelled()

    def files(self) -> dict[str, bytes]:
        """The contents of the directory's files by name; empty when there is none."""
        return {path.name: path.read_bytes() for path in self.out.glob("*")}

    def fits(self, folder: Path | None = None, image: Path | None = None) -> Bundle:
        """Check the bundle, by default the one in the directory."""
        return check_bundle(folder or self.out, image or self.image, self.keys.user.key, self.keys.user.certificate)


class MakeScene(Protocol):
    def __call__(self, *, by_itself: bool = True, **changes: Any) -> AbstractAsyncContextManager[Scene]: ...


@asynccontextmanager
async def open_scene(
    chosen: Settings, image: Path, keys: KeyRing, out: Path, *, by_itself: bool = True
) -> AsyncIterator[Scene]:
    """An engine as in a daemon, or without `by_itself` as in-process."""
    async with Journal(chosen.state_dir, by_itself=by_itself) as journal, Aws(chosen) as aws:
        engine = Engine(chosen, journal, aws)
        yield Scene(engine=engine, journal=journal, settings=chosen, image=image, keys=keys, out=out)


@dataclass(kw_only=True)
class Cloud:
    """Ministack behind a proxy that answers dry runs as AWS does, and two buckets, of which most tests use one."""

    endpoint: Endpoint
    proxy: FaultProxy
    make_bucket: MakeBucket

    @cached_property
    def bucket(self) -> str:
        return self.make_bucket(self.endpoint)

    @cached_property
    def second(self) -> str:
        return self.make_bucket(self.endpoint)

    def request(self, image: Path, keys: KeyRing, *, both: bool = False, **changes: Any) -> BundleRequest:
        """A bundle of the image in the folder x of the first bucket or of both, not registered unless `changes` say."""
        buckets = (self.bucket, self.second) if both else (self.bucket,)
        fixed = {"endpoint_url": self.proxy.url, "destinations": [f"s3://{bucket}/x" for bucket in buckets]}
        return request(image, "", keys, **{**fixed, "register_image": False, **changes})

    async def breaks(self, action: Action, path: str = ".*", **how: Any) -> Fault:
        """Let this happen to requests, by default to every PUT of such a path."""
        fault = Fault(action=action, path=path, **{"times": None, **how})
        await asyncio.to_thread(self.proxy.add, fault)
        return fault

    async def mend(self, *faults: Fault) -> None:
        await asyncio.to_thread(self.proxy.mend, *faults)

    def stored(self, bucket: str = "") -> list[str]:
        return list_keys(self.endpoint, bucket or self.bucket)

    def uploads(self, bucket: str = "") -> list[tuple[str, str]]:
        return open_uploads(self.endpoint, bucket or self.bucket)

    def images(self, name: str) -> list[dict[str, Any]]:
        with self.endpoint.blocking_client("ec2") as ec2:
            found: list[dict[str, Any]] = ec2.describe_images(
                Owners=["self"], Filters=[{"Name": "name", "Values": [name]}]
            )["Images"]
        return found

    def downloaded(self, folder: Path, bucket: str = "") -> Path:
        """The bundle, downloaded into the folder."""
        download_bundle(self.endpoint, bucket or self.bucket, "x/", folder)
        return folder
