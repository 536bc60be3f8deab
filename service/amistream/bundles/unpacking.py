"""THE way back: one pass over a bundle's parts, from where they lie to the bytes of the image. Nothing is kept on disk.

Parts are fetched a few ranges ahead (`bundles.fetch`); each one's SHA-1 is taken as its ranges come by; what follows
goes down a line of threads (`flow.line`), a stage each. Inflating takes longer than all else together, so it is spread
over the cores where the stream can be taken up in its middle.

What is not as the manifest says becomes a `Difference`. A thorough pass goes on then, to find all of them; any other
ends with the part that it is in, because that part's digest tells whether it is the one to blame.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

from amistream.bundles.fetch import Range, fetch
from amistream.bundles.image_blocks import Block
from amistream.bundles.manifest import Manifest
from amistream.bundles.meter import Meter
from amistream.bundles.parts import SeenPart
from amistream.bundles.report import Difference
from amistream.bundles.unpack.cut import Cut, Run
from amistream.bundles.unpack.decrypt import Decrypt
from amistream.bundles.unpack.flaw import FlawError
from amistream.bundles.unpack.inflate_runs import BegunRun, InflateRuns, inflate_apart
from amistream.bundles.unpack.unarchive import Unarchive, Unarchived
from amistream.errors import first_cause
from amistream.flow.line import HAND_OVER, Line, LineStoppedError
from amistream.flow.priority import spread_over_cores, wake_promptly
from amistream.keys import BundleKey
from amistream.stores.port import Store
from amistream.values import Buffer

WAITING = 3
"""Hand-overs that wait before each stage, at most: ranges of 4 MiB, runs, then pieces of 2 MiB together."""


class Sink(Protocol):
    """What takes the image: see `image_target.Target`."""

    def gather(self, offset: int, data: memoryview) -> Iterator[Any]: ...

    def rest(self) -> Iterator[Any]: ...

    def write(self, gathered: Any) -> None: ...

    def stop(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Unpacked:
    """What a pass found. `content` is None when the stream did not come to a good end."""

    content: Unarchived | None
    differences: tuple[Difference, ...]


class Unpacking:
    """One pass; used once."""

    def __init__(
        self,
        store: Store,
        manifest: Manifest,
        key: BundleKey,
        sink: Sink | None,
        meter: Meter,
        *,
        thorough: bool,
        workers: int | None = None,
    ) -> None:
        """`sink` None: the pass only looks. `workers` inflate at a time; None: one per core this process may use."""
        self._store = store
        self._manifest = manifest
        self._meter = meter
        self._thorough = thorough
        self._differences: list[Difference] = []
        self._sha1 = hashlib.sha1(usedforsecurity=False)
        self._flowing = True
        """Whether the line takes what comes."""
        self._archive = Unarchive()
        workers = workers or len(os.sched_getaffinity(0))
        self._cores = ThreadPoolExecutor(
            workers, thread_name_prefix="amistream-inflate", initializer=spread_over_cores(workers)
        )
        decrypt, inflate = Decrypt(key=key.key.reveal(), iv=key.iv.reveal()), InflateRuns()
        self._line = Line(
            (
                _Ahead(decrypt, inflate, self._cores),  # CBC: each block needs the one before
                inflate,  # joins what the cores made, in order
                # SHA-1 over the whole tar is serial by nature. Then the disk or another program is waited for.
                *((self._archive,) if sink is None else (_Gather(self._archive, sink, manifest.size), _Store(sink))),
            ),
            capacity=WAITING,
            release=sink.stop if sink is not None else lambda: None,
            # A block holds one of a few buffers, however little is in it: whoever waits for one must not keep it back.
            weigh=lambda item: HAND_OVER if isinstance(item, BegunRun | Block) else len(item),
        )

    async def run(self, parts: Sequence[SeenPart], *, complete: bool = True) -> Unpacked:
        """Read the parts; of those that are not `complete` only the digests. Raises `StoreError`, and what the sink
        does.
        """
        if not complete:
            self._line.stop()
        wake_promptly()
        try:
            async with asyncio.TaskGroup() as group:
                content = group.create_task(self._content(), name="content")
                whole = await fetch(self._store, parts, self._take)
                if whole:
                    self._line.end()
                else:
                    self._line.stop()
        except BaseExceptionGroup as errors:
            raise first_cause(errors) from None
        finally:
            self._cores.shutdown(wait=False, cancel_futures=True)
        flaw = content.result()
        if flaw is not None:
            self._differences.append(flaw)
        return Unpacked(
            content=self._archive.result() if whole and complete and flaw is None else None,
            differences=tuple(self._differences),
        )

    async def _content(self) -> Difference | None:
        try:
            await self._line.run()
        except FlawError as flaw:
            return Difference(what=flaw.code, message=flaw.words)
        except LineStoppedError:
            # A part differs: that is the cause.
            return None
        return None

    async def _take(self, each: Range, data: bytes) -> bool:
        # A cancel stops the line, which lets the thread go; the data is nobody else's.
        return await asyncio.to_thread(self._take_range, each, data)

    def _take_range(self, each: Range, data: bytes) -> bool:
        self._sha1.update(data)
        self._meter.bytes_done += len(data)
        if len(data) < each.length:
            self._differ(
                each.part, "part.size", str(each.part.size), str(each.offset + len(data)), "it has become shorter"
            )
        if self._flowing:
            try:
                self._line.put(data)
            except LineStoppedError:
                self._flowing = False
        if not each.ends_part:
            return True
        found, expected = self._sha1.hexdigest(), each.part.part.digest
        if found != expected:
            self._differ(
                each.part, "part.digest", expected, found, f"its SHA-1 is {found}, the manifest says {expected}"
            )
        self._sha1 = hashlib.sha1(usedforsecurity=False)
        self._meter.parts_done += 1
        return self._thorough or (self._flowing and not self._differences)

    def _differ(self, part: SeenPart, what: str, expected: str, found: str, why: str) -> None:
        self._differences.append(
            Difference(what=what, part=part.name, expected=expected, found=found, message=f"{part.name}: {why}")
        )


class _Ahead:
    """The first stage: decrypts, and has the cores begin with what can be inflated apart."""

    def __init__(self, decrypt: Decrypt, inflate: InflateRuns, cores: ThreadPoolExecutor) -> None:
        self._decrypt = decrypt
        self._cut = Cut()
        self._inflate = inflate
        self._cores = cores

    def feed(self, data: Buffer) -> Iterator[BegunRun]:
        for plain in self._decrypt.feed(data):
            yield from map(self._begun, self._cut.feed(plain))

    def finish(self) -> Iterator[BegunRun]:
        try:
            for plain in self._decrypt.finish():
                yield from map(self._begun, self._cut.feed(plain))
        except FlawError:
            # What is held comes before the flaw, and may have one that explains more.
            yield from map(self._begun, self._cut.finish())
            raise
        yield from map(self._begun, self._cut.finish())

    def _begun(self, run: Run) -> BegunRun:
        if not self._inflate.worthwhile:
            return BegunRun(run=run)
        return BegunRun(run=run, apart=self._cores.submit(inflate_apart, run).result)


class _Gather:
    """Takes the archive apart, and gathers what belongs to the image for the sink."""

    def __init__(self, archive: Unarchive, sink: Sink, size: int) -> None:
        self._archive = archive
        self._sink = sink
        self._size = size

    def feed(self, data: Buffer) -> Iterator[Any]:
        for piece in self._archive.feed(data):
            # More than the manifest tells is no part of the image; that it is there shows at the end.
            if piece.offset < self._size:
                yield from self._sink.gather(piece.offset, piece.data[: self._size - piece.offset])

    def finish(self) -> Iterator[Any]:
        yield from self._archive.finish()
        # Of an image that turns out to have another size nothing more is wanted.
        if self._archive.result().image_size == self._size:
            yield from self._sink.rest()


class _Store:
    """The last stage: hands to the sink what was gathered."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink

    def feed(self, gathered: Any) -> Iterator[Any]:
        self._sink.write(gathered)
        yield from ()

    def finish(self) -> Iterator[Any]:
        yield from ()


def compare(manifest: Manifest, content: Unarchived) -> Iterator[Difference]:
    """What the manifest says otherwise of the image and its archive."""
    digest = content.archive.sha1.hex()
    if digest != manifest.digest:
        yield Difference(
            what="image.digest",
            expected=manifest.digest,
            found=digest,
            message=f"the SHA-1 of the archive is {digest}, the manifest says {manifest.digest}",
        )
    if content.image_size != manifest.size:
        yield Difference(
            what="image.size",
            expected=str(manifest.size),
            found=str(content.image_size),
            message=f"the image has {content.image_size} bytes, the manifest says {manifest.size}",
        )
