"""Checks the volume of a job of any kind: whether it can be read, its size, writers, free blocks, the freeze."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from amistream.checks.context import RequestContext
from amistream.checks.findings import Check, Finding, Observation, notice, run_checks
from amistream.checks.free_blocks import find_blocks, keep_all
from amistream.checks.freezing import places_to_freeze, writable_devices
from amistream.checks.tree_wishes import refuse_wishes
from amistream.errors import RefusedError, SourceError
from amistream.flow.cancel import finish_despite_cancel
from amistream.host.frozen import Frozen
from amistream.host.mounts import mount_point, offsets_on, shown
from amistream.ports.volume import Kind, Volume
from amistream.settings import Settings, Sparse
from amistream.source.boot_choice import BootAreaChoice, Partitioning
from amistream.source.disk_reader import reader_of
from amistream.source.doubt import doubt_about
from amistream.source.extents import join_extents
from amistream.source.file import too_large
from amistream.source.foreign import HEAD, recognise
from amistream.source.frozen import FrozenVolume
from amistream.source.opening import open_source, tree_of
from amistream.units import size_text
from amistream.values import Extent, LeftOut, is_snapshot, quoted

if TYPE_CHECKING:
    from amistream.source.tree.volume import TreeVolume
    from amistream.source.xfs_tree.volume import CopiedVolume


def reading_memory(source: str | None, settings: Settings) -> int:
    """Bytes of memory that the source itself takes while it is read."""
    if not is_snapshot(source or ""):
        return 0
    from amistream.source.snapshot import snapshot_memory

    return snapshot_memory(settings.puts)


class SourceChecks:
    """Opens the volume; `close` it."""

    volume: Volume
    """Set by the check `source`."""
    why_size = "EC2 takes no empty image, and boots none over 10 GiB"

    def __init__(self, context: RequestContext) -> None:
        self._context = context
        self.to_freeze: tuple[Path, ...] = ()
        """Mount points; set by the check `freeze`."""
        self._devices: frozenset[str] = frozenset()
        self._frozen: FrozenVolume | None = None
        self._frozen_at: frozenset[int] = frozenset()
        """Offsets of frozen file systems."""
        self._request = context.request
        self._settings = context.settings
        self.largest: int | None = int(context.settings.max_image_size)
        """Most bytes of a disk; None: another check knows."""
        self.opened = False
        self.boot_area = BootAreaChoice(
            Partitioning(context.request.partition),
            is_hvm=context.request.is_hvm,
            has_bios=(context.request.architecture or context.settings.architecture) != "arm64",
        )
        self.used: tuple[Extent, ...] = ()
        """The ranges to read: without holes and, after the check `free_blocks`, without free blocks. No other code asks
        the volume for its extents."""
        self.left_out = LeftOut()
        self.tree: TreeVolume | CopiedVolume | None = None
        """The tree that the volume is made of, if it is a directory."""
        self._doubt = ""
        """The sentence of the check `source`. It stands for all that could be said of the disk's tables."""
        self.workers = self._request.workers or self._settings.worker_count()
        self.memory_limit = self._request.memory_limit or self._settings.memory_limit

    def checks(self, *, check_mounts: bool = True) -> list[Check]:
        """Without `check_mounts` the volume may be written to meanwhile."""
        why = "writes during the pass make the image inconsistent, and the AMI may not boot"
        mount = Check("mount", why, self._check_mounts, ("source",))
        why_free = "deleted files would go into the image"
        return [
            Check("source", "there would be nothing to bundle", self._open),
            Check("size", self.why_size, self._check_size, ("source",)),
            *([mount] if check_mounts else []),
            *([self._freeze_check()] if check_mounts and self._request.freeze else []),
            Check("free_blocks", why_free, self._find_free_blocks, ("source", "size"), ("mount", "freeze")),
        ]

    def _freeze_check(self) -> Check:
        why = "a writer that waits for the thaw cannot even be killed"
        return Check("freeze", why, self._check_freeze, ("source",))

    async def freeze(self) -> list[Finding]:
        """Freeze what the checks have found to freeze, then open the volume anew, and find its free blocks again.

        The freeze ends when all is read (`all_read`), or with `close`.
        """
        why = "the image would not be consistent"
        return await run_checks([Check("frozen", why, self._open_frozen)]) if self.to_freeze else []

    def all_read(self) -> None:
        """Thaw the volume, if it was frozen. Raises `SourceError` unless it was so until now."""
        if self._frozen is not None:
            self._frozen.all_read()

    @property
    def data(self) -> int:
        """Bytes to read."""
        return sum(extent.length for extent in self.used)

    @property
    def extents(self) -> tuple[Extent, ...]:
        """The ranges to archive: few and large, with small gaps between those to read as zeros."""
        return join_extents(self.used, self.volume.size)

    @property
    def is_dense(self) -> bool:
        """The whole volume is read."""
        return self.data == self.volume.size and self._sparse is not Sparse.ALWAYS

    async def close(self) -> None:
        if self.opened:
            await asyncio.to_thread(self.volume.close)

    async def _open(self) -> Observation | str | list[Observation]:
        stopped, context, source = threading.Event(), self._context, self._request.source or ""
        snapshot = None
        if is_snapshot(source):
            from amistream.checks.snapshot_source import open_snapshot_source

            snapshot = await open_snapshot_source(
                context.aws,
                context.settings,
                source,
                region=await context.source_region(),
                endpoint_url=context.endpoint_url,
                most=self.largest,
                roots=context.roots,
            )
        work = asyncio.to_thread(self._open_unless, stopped.is_set, snapshot)
        return await finish_despite_cancel(work, on_cancel=stopped.set)

    def _open_unless(
        self, stopped: Callable[[], bool], snapshot: Volume | None = None
    ) -> Observation | str | list[Observation]:
        """Open the volume, if it is no `snapshot`. The walk through a directory ends soon once it is `stopped`."""
        request = self._request
        self.volume = volume = open_source(
            request.source or "",
            self._context.roots,
            live=request.live,
            image_size=request.image_size,
            most=self.largest,
            as_it_is=self._as_it_is,
            partition=self.boot_area.table,
            tree=lambda path: self._open_tree(path, stopped),
            snapshot=snapshot,
        )
        self.opened = True
        self.used = volume.extents()
        self.tree = tree_of(volume)
        if self.tree is not None:
            from amistream.checks.tree import describe, describe_boot_area

            return [
                describe(self.tree, for_member=self._context.roots is not None),
                *describe_boot_area(self.boot_area),
            ]
        refuse_wishes(request)
        count = len(self.used)
        found = f"{size_text(volume.size)} {volume.kind}, {count} extent{'s' * (count != 1)}"
        self._doubt = "" if self._as_it_is else look_at(volume)
        return notice(f"{found}; {self._doubt}", why="the AMI may not boot") if self._doubt else found

    def _open_tree(self, path: Path, stopped: Callable[[], bool]) -> Volume:
        from amistream.checks.tree import open_wished

        return open_wished(self._context, self.boot_area, path, stopped)

    @property
    def _as_it_is(self) -> bool:
        return self._request.source_format is not None

    def _find_free_blocks(self) -> Sequence[Observation]:
        volume, data = self.volume, self.used
        if self._sparse is Sparse.NEVER:
            found = keep_all(volume, [Extent(offset=0, length=volume.size)], "as --sparse never asks for")
        elif self.tree is not None:
            from amistream.checks.tree import find_tree_blocks

            found = find_tree_blocks(volume, data)
        elif volume.kind is Kind.STREAM:
            found = keep_all(volume, data, "a stream is read from front to back")
        elif self.to_freeze and self._frozen is None:
            return [Observation("are found once it is frozen")]
        elif self._frozen is None and (place := mount_point(volume.identity, writable=True)):
            found = keep_all(volume, data, f"it is mounted read-write on {place}")
        elif self._doubt:
            found = keep_all(volume, data, "it is in doubt")
        else:
            found = find_blocks(volume, data, frozen=self._frozen_at)
        self.used, self.left_out = found.used, found.left_out
        return found.observations

    def _check_size(self) -> str:
        volume, most = self.volume, self.largest
        if volume.size == 0:
            raise RefusedError(
                "source.empty",
                f"cannot bundle {volume.path}: it is empty",
                hint="check the path",
                field="source",
            )
        if most is None:
            return size_text(volume.size)
        if volume.size > most:
            raise too_large(volume.path, volume.size, most)
        return f"{size_text(volume.size)} of at most {size_text(most)}"

    def _check_mounts(self) -> Observation:
        path = self.volume.path
        if self.tree is not None:
            return Observation("a directory is read while it is in use; files that change meanwhile are named")
        place = mount_point(self.volume.identity, writable=True)
        if not place:
            return Observation("not mounted read-write")
        if self._request.freeze:
            return Observation(f"mounted read-write on {place}, and frozen while it is read")
        if self._request.live:
            return notice(
                f"{path} is mounted read-write on {place}",
                why="writes during the pass make the image inconsistent, and free blocks cannot be left out",
                fix=f"safe only while nothing writes to it, for example after fsfreeze --freeze {quoted(place)}",
            )
        mounted = quoted(place)
        # Members of the socket's group may not freeze what others write to.
        freeze = "" if self._context.roots else "a data volume can be frozen while it is read (--freeze); "
        raise RefusedError(
            "source.mounted",
            f"cannot bundle {path}: it is mounted read-write on {place}, and writes would make the image inconsistent",
            hint=f"umount {mounted}, or mount -o remount,ro {mounted}, or bundle a snapshot; {freeze}if you accept the "
            "risk, add --live",
            field="source",
        )

    def _check_freeze(self) -> str:
        self._devices = writable_devices(self.volume)
        self.to_freeze = places_to_freeze(self.volume, self._request, self._settings)
        if not self.to_freeze:
            return "nothing on it is mounted read-write"
        names = ", ".join(map(shown, self.to_freeze))
        return f"{names}, for {self._settings.freeze_timeout_s:g} s at most"

    def _open_frozen(self) -> Sequence[Observation]:
        """Open the volume after the freeze: it is compared with its state of then once all is read."""
        frozen = Frozen(self.to_freeze, limit_s=self._settings.freeze_timeout_s)
        try:
            self.volume.close()
            self.opened = False
            self._open_unless(lambda: False)
        except BaseException:
            frozen.close()
            raise
        self.volume = self._frozen = FrozenVolume(self.volume, frozen)
        if writable_devices(self.volume) != self._devices:
            raise RefusedError(
                "freeze.mounted",
                f"cannot bundle {self.volume.path}: more of it was mounted while it was checked",
                hint="try again",
                field="freeze",
            )
        self._frozen_at = offsets_on(self.volume.identity, self._devices)
        return self._find_free_blocks()

    @property
    def _sparse(self) -> Sparse:
        return self._request.sparse or self._settings.sparse


def look_at(volume: Volume) -> str:
    """Look at the disk in an image, or another one: a doubt, or ''. Raises `RefusedError`."""
    if volume.kind is Kind.STREAM:
        return ""  # has not come yet
    read = reader_of(volume)
    try:
        kind = recognise(read(0, min(HEAD, volume.size)))
        doubt = doubt_about(read, volume.path.name, volume.size)
    except SourceError:
        return ""  # fails later, with a message of its own
    if kind:
        raise RefusedError(
            "source.no_disk",
            f"cannot bundle {volume.path}: the disk in this image is {kind.words}, no disk",
            hint="make the image from the disk itself, or convert it into a raw image first",
            field="source",
        )
    return doubt
