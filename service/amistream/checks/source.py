"""Checks the volume and plans its bundle: kind and size, writers, number of parts, memory."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from amistream.checks.destination import RequestContext
from amistream.checks.findings import Check, Finding, Observation, notice, run_checks
from amistream.checks.free_blocks import find_blocks, keep_all
from amistream.checks.freezing import places_to_freeze, writable_devices
from amistream.checks.taken_over import find_taken_over
from amistream.checks.tree import describe, describe_boot_area, open_wished, refuse_wishes
from amistream.errors import RefusedError, SourceError
from amistream.flow.cancel import finish_despite_cancel
from amistream.host.frozen import Frozen
from amistream.host.mounts import mount_point, offsets_on, shown
from amistream.plan import Plan
from amistream.ports.volume import Kind, Volume
from amistream.request import PREFIX_WORDS
from amistream.settings import Sparse, concurrency_within, memory_ceiling
from amistream.source.boot_choice import BootAreaChoice, Partitioning
from amistream.source.clone import CloneVolume
from amistream.source.disk_reader import reader_of
from amistream.source.doubt import doubt_about
from amistream.source.extents import join_extents
from amistream.source.file import too_large
from amistream.source.foreign import HEAD, recognise
from amistream.source.frozen import FrozenVolume
from amistream.source.opening import open_source, tree_of
from amistream.source.tree.volume import TreeVolume
from amistream.stages.level import level_number
from amistream.stages.manifest import SIGNED_MAX, signed_size
from amistream.units import size_text
from amistream.values import GIB, MIB, Extent, LeftOut, is_prefix, quoted


class SourceChecks:
    """Opens the volume; `close` it. The plan is known once the checks have passed."""

    volume: Volume
    """Set by the check `source`."""

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
        self.opened = False
        self.boot_area = BootAreaChoice(
            Partitioning(context.request.partition),
            is_hvm=context.request.virtualization == "hvm",
            has_bios=(context.request.architecture or context.settings.architecture) != "arm64",
        )
        self.used: tuple[Extent, ...] = ()
        """The ranges to read: without holes and, after the check `free_blocks`, without free blocks. No other code asks
        the volume for its extents."""
        self.left_out = LeftOut()
        self.tree: TreeVolume | None = None
        """The tree that the volume is made of, if it is a directory."""
        self._doubt = ""
        """The sentence of the check `source`. It stands for all that could be said of the disk's tables."""
        self._concurrency = 0
        self.part_size = int(self._request.part_size or self._settings.part_size)
        self.workers = self._request.workers or self._settings.worker_count()
        self.memory_limit = self._request.memory_limit or self._settings.memory_limit
        self.wanted_concurrency = self._request.upload_concurrency or self._settings.upload_concurrency

    def checks(self, *, check_mounts: bool = True) -> list[Check]:
        """Without `check_mounts` the volume may be written to meanwhile."""
        why = "writes during the pass make the image inconsistent, and the AMI may not boot"
        mount = Check("mount", why, self._check_mounts, ("source",))
        why = "EC2 would refuse the manifest after everything was stored"
        why_free = "deleted files would go into the image"
        return [
            Check("source", "there would be nothing to bundle", self._open),
            Check("size", "EC2 takes no empty image, and boots none over 10 GiB", self._check_size, ("source",)),
            *([mount] if check_mounts else []),
            *([self._freeze_check()] if check_mounts and self._request.freeze else []),
            Check("free_blocks", why_free, self._find_free_blocks, ("source", "size"), ("mount", "freeze")),
            Check("parts", why, self._check_parts, ("source",)),
            self.memory_check(),
        ]

    def memory_check(self) -> Check:
        """The check that needs no volume."""
        return Check("memory_limit", "the process would grow beyond the limit", self._choose_concurrency)

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
    def most_parts(self) -> int:
        # Incompressible data grows by far less than this thousandth.
        return (self.volume.size + self.volume.size // 1000) // self.part_size + 1

    def plan(self) -> Plan:
        request, settings = self._request, self._settings
        dense = self.data == self.volume.size and self._sparse is not Sparse.ALWAYS
        extents = self.extents
        return Plan(
            prefix=self._context.prefix,
            part_size=self.part_size,
            block_size=int(settings.block_size),
            workers=self.workers,
            level=level_number(request.compress or settings.compress),
            upload_concurrency=self._concurrency,
            nice=settings.nice if request.nice is None else request.nice,
            extents=None if dense else extents,
            used=None if dense or self.used == extents else self.used,
            left_out=self.left_out,
        )

    async def close(self) -> None:
        if self.opened:
            await asyncio.to_thread(self.volume.close)

    async def _open(self) -> Observation | str | list[Observation]:
        stopped = threading.Event()
        return await finish_despite_cancel(asyncio.to_thread(self._open_unless, stopped.is_set), on_cancel=stopped.set)

    def _open_unless(self, stopped: Callable[[], bool]) -> Observation | str | list[Observation]:
        """Open the volume. The walk through a directory ends soon once it is `stopped`."""
        request = self._request
        self.volume = volume = open_source(
            request.source or "",
            self._context.roots,
            live=request.live,
            image_size=request.image_size,
            most=int(self._settings.max_image_size),
            as_it_is=self._as_it_is,
            partition=self.boot_area.table,
            tree=lambda path: open_wished(self._context, self.boot_area, path, stopped),
        )
        self.opened = True
        self.used = volume.extents()
        self.tree = tree_of(volume)
        if self.tree is not None:
            return [describe(self.tree), *describe_boot_area(self.boot_area)]
        refuse_wishes(request)
        count = len(self.used)
        found = f"{size_text(volume.size)} {volume.kind}, {count} extent{'s' * (count != 1)}"
        self._doubt = "" if self._as_it_is else look_at(volume)
        return notice(f"{found}; {self._doubt}", why="the AMI may not boot") if self._doubt else found

    @property
    def _as_it_is(self) -> bool:
        return self._request.source_format is not None

    def _find_free_blocks(self) -> Sequence[Observation]:
        volume, data = self.volume, self.used
        if self._sparse is Sparse.NEVER:
            found = keep_all(volume, [Extent(offset=0, length=volume.size)], "as --sparse never asks for")
        elif isinstance(volume, CloneVolume):
            found = find_taken_over(volume, data)
        elif self.tree is not None:
            found = keep_all(volume, data, "the file system is a fresh one")
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
        volume, most = self.volume, int(self._settings.max_image_size)
        if volume.size == 0:
            raise RefusedError(
                "source.empty",
                f"cannot bundle {volume.path}: it is empty",
                hint="check the path",
                field="source",
            )
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
        raise RefusedError(
            "source.mounted",
            f"cannot bundle {path}: it is mounted read-write on {place}, and writes would make the image inconsistent",
            hint=f"umount {mounted}, or mount -o remount,ro {mounted}, or bundle a snapshot; a data volume can be "
            "frozen while it is read (--freeze); if you accept the risk, add --live",
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

    def _check_parts(self) -> str:
        prefix, size = self._context.prefix, self.volume.size
        if not is_prefix(prefix):
            raise RefusedError(
                "prefix.invalid",
                f"cannot name the parts: the prefix {prefix!r} is not {PREFIX_WORDS}",
                hint="choose another --prefix, or correct the setting prefix",
                field="prefix",
            )
        if signed_size(prefix, self.most_parts) > SIGNED_MAX:
            raise RefusedError(
                "part_size.too_small",
                f"cannot cut {size / GIB:.2f} GiB into parts of {self.part_size} bytes: EC2 accepts about 7000 parts",
                hint="give a larger --part-size; the AMI tools use 10MiB",
                field="part_size",
            )
        return f"at most {self.most_parts} of {size_text(self.part_size)} each"

    def _choose_concurrency(self) -> str:
        """Parts in flight: as requested, or as many as fit in the memory limit."""
        limit, self._concurrency = self.memory_limit, self.wanted_concurrency
        if limit is not None:
            block_size = int(self._settings.block_size)
            fitting = concurrency_within(limit, workers=self.workers, block_size=block_size, part_size=self.part_size)
            if fitting < 1:
                raise RefusedError(
                    "memory_limit.too_small",
                    f"cannot keep within {limit / MIB:.0f} MiB: {self.workers} workers and one part of "
                    f"{self.part_size / MIB:g} MiB in flight need {self.ceiling(1) / MIB:.0f} MiB",
                    hint="give a larger --memory-limit, or a smaller --part-size, or fewer --workers",
                    field="memory_limit",
                )
            self._concurrency = min(self._concurrency, fitting)
        of = f" of {size_text(limit)}" if limit else ""
        return f"{self._concurrency} parts in flight, at most {size_text(self.ceiling(self._concurrency))}{of}"

    def ceiling(self, upload_concurrency: int) -> int:
        """Bytes of memory that the job may use with this many parts in flight."""
        return memory_ceiling(
            workers=self.workers,
            block_size=int(self._settings.block_size),
            part_size=self.part_size,
            upload_concurrency=upload_concurrency,
        )

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
