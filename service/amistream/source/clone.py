"""A tree on a disk like its own: every byte outside of the root partition is that of the disk that it is on.

GRUB boots from it without being installed again. The disk is in use, so its ranges are read twice more than they are
bundled: before and after the pass. They hardly ever change; if they did, the job fails rather than give a torn one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path

from amistream.errors import RefusedError, SourceError
from amistream.host.devices import device_number
from amistream.host.partitions import PlaceOnDisk
from amistream.ports.volume import Volume
from amistream.source.disk_reader import reader_of
from amistream.source.disks.loader import LoaderKind
from amistream.source.disks.partitions import read_table
from amistream.source.disks.template import NoTemplateError, Template, make_template
from amistream.source.file import FileVolume, open_volume
from amistream.source.pieces import Memory, Piece, PiecedVolume, Zeros, whole
from amistream.source.tree.opening import DEFAULT_PROFILE, TreeWishes, open_tree
from amistream.source.tree.profiles import XFS
from amistream.source.tree.surroundings import StoppedError
from amistream.source.tree_disk import check_driver, find_tree_disk, no_clone
from amistream.values import KIB, MIB, Extent, quoted

_BLOCK = 4 * KIB
"""File systems are made of whole blocks; their partitions often are not."""
_AT_ONCE = MIB


class CloneVolume(PiecedVolume):
    """The volume `inner` as the root of a disk after a template. It owns both `inner` and `disk`."""

    def __init__(
        self, inner: Volume, disk: FileVolume, template: Template, stopped: Callable[[], bool] = lambda: False
    ) -> None:
        """Raises `StoppedError` once it is `stopped`: partitions that are taken over may be large."""
        super().__init__(inner, _pieces(inner, disk, template))
        self.disk = disk
        self.loader = template.loader.kind.value if template.loader.kind is not LoaderKind.NONE else "UEFI"
        """The boot loader, in words."""
        self.root = template.root
        self.copied = tuple(template.copied())
        """The ranges of the disk that are taken over."""
        self._before = self._digests(disk, stopped)

    def check_unchanged(self) -> None:
        """Raise `SourceError` if what was taken over from the disk is another by now."""
        self.inner.check_unchanged()
        # Opened again, since that drops the kernel's cache of the device.
        again = open_volume(self.disk.path, live=True)
        try:
            now = self._digests(again)
        finally:
            again.close()
        for extent, before, after in zip(self.copied, self._before, now, strict=True):
            if before != after:
                raise SourceError(
                    "source.changed",
                    f"cannot use the boot area of {self.disk.path}: bytes {extent.offset} to {extent.end} were written "
                    "to in the meantime",
                    hint="install and update boot loaders and kernels before or after the job, and try again",
                    field="partition",
                )

    def close(self) -> None:
        try:
            self.inner.close()
        finally:
            self.disk.close()

    def _digests(self, disk: FileVolume, stopped: Callable[[], bool] = lambda: False) -> list[bytes]:
        return [_digest(disk, extent, stopped) for extent in self.copied]


def open_clone(path: Path, wishes: TreeWishes, *, keeps_xfs: bool = True) -> CloneVolume:
    """Open the tree at `path` on a disk like its own. Raises `RefusedError`, or `SourceError` if it cannot be read.

    `keeps_xfs`: an xfs stays one if no kind is wished for.
    """
    on = find_tree_disk(path)
    if on.kind == XFS.name:
        wishes = replace(wishes, profile=wishes.profile or (XFS.name if keeps_xfs else DEFAULT_PROFILE))
    check_driver(path, on.kind, wishes.profile or on.kind)
    try:
        on.write_out()
    except OSError as error:
        raise no_clone(path, f"its other partitions cannot be written out: {error.strerror}", "dmesg") from error
    try:
        disk = open_volume(on.place.disk, live=True)
    except RefusedError as error:
        raise no_clone(path, error.message, error.hint) from error
    try:
        template = _template(path, disk, on.place, wishes)
        size = template.root.length // _BLOCK * _BLOCK
        tree = open_tree(path, replace(wishes, size=size, reserved=0))
        try:
            return CloneVolume(tree, disk, template, wishes.stopped)
        except BaseException:
            tree.close()
            raise
    except BaseException:
        disk.close()
        raise


def _template(path: Path, disk: FileVolume, place: PlaceOnDisk, wishes: TreeWishes) -> Template:
    if device_number(disk.identity.st_rdev) != place.disk_device:
        raise no_clone(path, f"{disk.path} is not the device {place.disk_device}", "udevadm trigger")
    read = reader_of(disk)
    table = read_table(read, disk.size)
    known = next((each for each in table.partitions if each.number == place.number), None)
    if known and (known.offset, known.size) != (place.offset, place.size):
        why = f"the kernel has another place or size for partition {place.number} than its table"
        raise no_clone(path, why, f"partprobe {quoted(disk.path)}; or start the machine again")
    try:
        return make_template(read, disk.size, table, place.number, most=wishes.most, wanted=wishes.size)
    except NoTemplateError as error:
        raise no_clone(path, str(error), error.fix) from error


def _pieces(inner: Volume, disk: FileVolume, template: Template) -> Iterator[Piece]:
    """All pieces of the disk, in order."""
    root = template.root
    placed = [(each.offset, Piece(disk, each.offset, each.length)) for each in template.copied()]
    placed += [(each.offset, whole(Memory(each.data))) for each in template.written]
    placed += [(each.offset, whole(Zeros(each.length))) for each in template.blank]
    placed += [(root.offset, whole(inner)), (root.offset + inner.size, whole(Zeros(root.length - inner.size)))]
    return (piece for _, piece in sorted(placed, key=lambda each: each[0]))


def _digest(disk: FileVolume, extent: Extent, stopped: Callable[[], bool]) -> bytes:
    digest, buffer = blake2b(), memoryview(bytearray(_AT_ONCE))
    for offset in range(extent.offset, extent.end, _AT_ONCE):
        if stopped():
            raise StoppedError
        piece = buffer[: min(_AT_ONCE, extent.end - offset)]
        disk.read_into(offset, piece)
        digest.update(piece)
    return digest.digest()
