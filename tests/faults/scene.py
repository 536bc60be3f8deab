"""A whole job in this process with something going wrong on its way: a bucket behind a proxy, a volume, a journal.

`scene` makes it and proves, when it is left, that no task, thread or open file stayed.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from amistream.aws.session import Aws
from amistream.jobs.queue import JobQueue, open_queue
from faults.quick_check import quickly_check_bundle
from jobs.work import request, settings
from support.loop import clock
from support.proxy import FaultProxy, dry_run_answered
from support.referee import check_bundle

if TYPE_CHECKING:
    from amistream.jobs.job import Job
    from amistream.request import BundleRequest
    from amistream.settings import Settings
    from faults.ground import Ground
    from support.endpoints import Endpoint
    from support.keys import KeyRing
    from support.proxy import Action, Fault, Request

STALL_S = 30
"""Longer than a busy machine takes for any request; those that are held take none of it."""
REGISTER = "Action=RegisterImage&(?!.*DryRun)"
PROBE = ".*/amistream-probe-.*"


def part(number: int | str) -> str:
    """The path of a part, as a fault wants it."""
    return f".*image\\.part\\.{number if isinstance(number, str) else f'{number:02d}'}"


MANIFEST = r".*image\.manifest\.xml"


@dataclass(kw_only=True)
class Scene:
    """The objects that a test works with. Places are folders in the test's own folder."""

    ground: Ground
    root: str
    proxy: FaultProxy
    image: Path
    keys: KeyRing
    directory: Path
    settings: Settings
    aws: Aws
    _got: int = field(default=0)

    def request(self, place: str = "x", **changes: Any) -> BundleRequest:
        """A job to be registered under a name that the endpoint shows as the image's location, so that it is right."""
        named = {"ami_name": self.image_name(place)} if changes.get("register_image", True) else {}
        to = f"s3://{self.ground.bucket}/{self.root}/{place}"
        return request(self.image, to, self.keys, **{"endpoint_url": self.proxy.url, **named, **changes})

    def image_name(self, place: str = "x") -> str:
        return f"{self.ground.bucket}/{self.root}/{place}/image.manifest.xml"

    @asynccontextmanager
    async def queue(self) -> AsyncIterator[JobQueue]:
        """The daemon's queue, engine and journal, from start to end, without its socket."""
        chosen = self.settings
        async with open_queue(chosen, self.aws, by_itself=True) as queue:
            await queue.recover(resume=chosen.resume_on_start)
            yield queue

    async def run(self, asked: BundleRequest | None = None) -> Job:
        """Run one job to its end."""
        async with self.queue() as queue:
            job, _ = await queue.submit(asked or self.request())
            await ended(job)
        return job

    async def resume(self, job: Job) -> Job:
        """Resume the job in another run of the daemon, and wait for its end."""
        async with self.queue() as queue:
            again = await queue.resume(job.id)
            await ended(again)
        return again

    async def cancel(self, job: Job) -> Job:
        """Let another run of the daemon remove what the job left."""
        async with self.queue() as queue:
            again = await queue.cancel(job.id)
            await ended(again)
        return again

    def left(self) -> list[str]:
        """Objects, unfinished uploads and images that are there."""
        return [*self.ground.keys(self.root), *self.ground.uploads(self.root), *self.images()]

    def images(self, place: str = "x") -> list[str]:
        return self.ground.images(self.image_name(place))

    def fits(self, place: str = "x", *, image: Path | None = None, thoroughly: bool = False) -> int:
        """Assert that a right bundle is in `place`, and nothing else; returns the number of its parts."""
        self._got += 1
        got = self.directory / f"got-{self._got}"
        files = self.ground.fetch(f"{self.root}/{place}", got)
        wanted = image or self.image
        parts = quickly_check_bundle(got, wanted, self.keys.user)
        if thoroughly:
            check_bundle(got, wanted, self.keys.user.key, self.keys.user.certificate)
        for path in files:
            path.unlink()
        return parts

    def parts_stored_once(self) -> None:
        """Assert that no part or chunk was sent again after a reply of success."""
        acknowledged: set[str] = set()
        for put in self.proxy.seen("PUT", part(".*")):
            what = f"{put.path}?{put.query}"
            assert what not in acknowledged, f"{what} was sent again after a success"
            if put.status == 200:
                acknowledged.add(what)


class MakeScene(Protocol):
    def __call__(
        self,
        *faults: Fault,
        size: int = ...,
        at_random: Callable[[Request], Action | None] | None = None,
        **changes: Any,
    ) -> AbstractAsyncContextManager[Scene]: ...


async def ended(job: Job) -> None:
    await job.ended.wait()


async def hit(proxy: FaultProxy, fault: Fault) -> None:
    await asyncio.to_thread(proxy.wait_hit, fault)


@asynccontextmanager
async def watched_proxy(
    endpoint: Endpoint, faults: tuple[Fault, ...], at_random: Callable[[Request], Action | None] | None = None
) -> AsyncIterator[FaultProxy]:
    """A proxy; at its end no task, thread or descriptor may be left of those taken since."""
    async with AsyncExitStack() as stack:
        stack.enter_context(nothing_stays())
        stack.push_async_callback(turns)
        yield stack.enter_context(
            FaultProxy(endpoint, [dry_run_answered(), *faults], at_random=at_random, clock=clock(STALL_S))
        )


async def turns() -> None:
    """Let the loop turn: transports report their end late, and a generator that was given up is closed by a task."""
    for _ in range(10):
        await asyncio.sleep(0)


@contextmanager
def nothing_stays() -> Iterator[None]:
    """Assert that tasks, threads of ours and open files are at the end what they were at the start."""
    before = _taken()
    yield
    tasks, threads, files = (now - then for now, then in zip(_taken(), before, strict=True))
    assert not tasks
    assert not threads
    assert not files


def _taken() -> tuple[Counter[str], Counter[str], Counter[str]]:
    tasks = Counter(task.get_name() for task in asyncio.all_tasks())
    threads = Counter(each.name for each in threading.enumerate() if each.name.startswith("amistream"))
    files: Counter[str] = Counter()
    for path in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):
            files[str(path.readlink()).partition("[")[0]] += 1
    return tasks, threads, files


def quick_settings(directory: Path, **changes: Any) -> Settings:
    """Few and quick repeats, parts and blocks so small that a job has many."""
    quick: dict[str, Any] = {
        "upload_attempts": 3,
        "stall_timeout_s": STALL_S,
        "block_size": "64KiB",
        "upload_concurrency": 2,
    }
    return settings(directory, **{**quick, **changes})
