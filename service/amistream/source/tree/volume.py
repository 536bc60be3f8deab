"""A live tree as a volume: the bytes of a fresh file system, made or read when they are asked for."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

from amistream.host.mount_table import MountWatch
from amistream.ports.volume import Kind
from amistream.source.extents import join_extents
from amistream.source.tree.contents import Contents
from amistream.source.tree.image import Image
from amistream.source.tree.layout import Kind as Content
from amistream.source.tree.profiles import BLOCK
from amistream.source.tree.report import Report
from amistream.values import Extent


class TreeVolume:
    """A volume of `size` bytes over a tree that was walked. Any offset can be read at any time, and again."""

    def __init__(
        self,
        path: Path,
        descriptors: Sequence[int],
        *,
        watch: MountWatch,
        image: Image,
        contents: Contents,
        report: Report,
        size: int,
        digest: str,
    ) -> None:
        """`descriptors`, the roots of the tree and of what lies over it, and `watch` are the volume's from now on."""
        layout = image.layout
        self.path = path
        self.kind = Kind.TREE
        self.size = size
        self.mtime = image.identity.time
        self.identity = os.fstat(descriptors[0])
        self.report = report
        self.digest = digest
        """Differs once the tree's metadata do, and so the image. Each file's times stand for its contents."""
        self.newest = max(layout.tree.ctime)
        """The latest change of any file, by its ctime."""
        self.inodes = len(layout.tree)
        self.profile = layout.profile.name
        self._descriptors = descriptors
        self._watch = watch
        self._layout = layout
        self._image = image
        self._contents = contents
        self._one_at_a_time = threading.Lock()

    def read_into(self, offset: int, buffer: memoryview) -> bool:
        """Fill the buffer. Returns True always: an announcement of what is read next would open each file twice."""
        with self._one_at_a_time:
            self._read(offset, buffer)
        return True

    def will_need(self, offset: int, length: int) -> None:
        """Do nothing: the kernel reads ahead within each file."""

    def extents(self) -> tuple[Extent, ...]:
        return self._extents

    @cached_property
    def _extents(self) -> tuple[Extent, ...]:
        return join_extents(self._runs(), self.size)

    def check_unchanged(self) -> None:
        """Look at every file again. The report names those that changed; they are no failure."""
        with self._one_at_a_time:
            self._contents.compare_all()

    def newer_than(self, time: int) -> Iterator[bytes]:
        """The paths of all but directories that changed after a time, which is that of another walk's `newest`."""
        tree = self._layout.tree
        for row, changed in enumerate(tree.ctime):
            if changed > time and not stat.S_ISDIR(tree.mode[row]):
                yield tree.path(row)

    def interrupt(self) -> None:
        """Do nothing: a read of a file ends by itself."""

    def rewind(self) -> None:
        with self._one_at_a_time:
            self._contents.forget()

    def close(self) -> None:
        with self._one_at_a_time:
            self._contents.close()
            self._watch.close()
            for descriptor in self._descriptors:
                os.close(descriptor)

    def _runs(self) -> Iterator[Extent]:
        """The segments, those that touch as one: a tree of many files has few runs."""
        segments = self._layout.segments
        begin = end = 0
        for start, length in zip(segments.start, segments.length, strict=True):
            if start != end:
                if end > begin:
                    yield Extent(offset=begin * BLOCK, length=(end - begin) * BLOCK)
                begin = start
            end = start + length
        if end > begin:
            yield Extent(offset=begin * BLOCK, length=(end - begin) * BLOCK)

    def _read(self, offset: int, buffer: memoryview) -> None:
        read_file, end, at = self._contents.read_into, offset + len(buffer), offset
        segments = self._layout.segments
        first = max(0, segments.at_or_before(offset // BLOCK))
        last = segments.at_or_before((end - 1) // BLOCK) + 1
        for segment, (block, length, kind, reference, logical) in enumerate(segments.between(first, last), first):
            start = block * BLOCK
            stop = start + length * BLOCK
            stop = min(stop, end)
            if stop <= at:
                continue  # it ends before the first byte that is read
            if start > at:
                buffer[at - offset : start - offset] = bytes(start - at)
                at = start
            piece = buffer[at - offset : stop - offset]
            if kind == Content.FILE:
                read_file(reference, logical * BLOCK + at - start, piece)
            else:
                self._make(segment, at - start, piece)
            at = stop
        if at < end:
            buffer[at - offset :] = bytes(end - at)

    def _make(self, segment: int, inside: int, buffer: memoryview) -> None:
        """Make bytes of the file system itself, that all lie within one segment."""
        done = 0
        while done < len(buffer):
            number, skipped = divmod(inside + done, BLOCK)
            count = min(BLOCK - skipped, len(buffer) - done)
            block = self._image.block(segment, number)
            buffer[done : done + count] = block[skipped : skipped + count]
            done += count
