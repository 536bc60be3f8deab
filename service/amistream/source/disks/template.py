"""Plans a disk after another one: all that lies outside of its root partition, and room for another root.

Every byte that is taken over stays at its place, so boot loaders find what they know by number, and all ids stay. The
root partition may get another size if it is the last one; the table says so then, and no other byte changes.
The boot loader must not need the blocks of the root's files: they are others in a new file system.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from amistream.source.disks.facts import Partition, PartitionTable, TableKind
from amistream.source.disks.loader import BootLoader, Core, LoaderKind, find_loader
from amistream.source.disks.mbr import SECTOR
from amistream.source.disks.reading import DoubtError, Reader, window
from amistream.source.disks.resized import Written, gpt_tail, resized_gpt, resized_mbr
from amistream.source.disks.signatures import identify
from amistream.values import KIB, Extent

_SWAP_HEADER = 4 * KIB
_SWAP_MARK, _SWAP_MARK_AT = b"SWAPSPACE2", _SWAP_HEADER - 10
_OTHER_WAY = "--partition mbr puts a boot area of its own before the file system; or bundle the disk itself"
_FIRST_LOGICAL = 5


class NoTemplateError(Exception):
    """The disk cannot be taken over. The text is a clause with its subject."""

    def __init__(self, why: str, fix: str = _OTHER_WAY) -> None:
        super().__init__(why)
        self.fix = fix


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """A disk of `size` bytes. All bytes that are not named are those of the other disk, at the same place."""

    size: int
    root: Extent
    """The place for the root's content."""
    written: tuple[Written, ...]
    blank: tuple[Extent, ...]
    """Zeros: memory that was swapped out has no place in an image."""
    loader: BootLoader

    def copied(self) -> Iterator[Extent]:
        """The ranges to take over, ascending."""
        ranges = (self.root, *self.blank, *(Extent(offset=each.offset, length=len(each.data)) for each in self.written))
        others = sorted((each.offset, each.end) for each in ranges)
        settled = 0
        for start, end in [*others, (self.size, self.size)]:
            if start > settled:
                yield Extent(offset=settled, length=start - settled)
            settled = end


def make_template(
    read: Reader, size: int, table: PartitionTable, number: int, *, most: int, wanted: int | None = None
) -> Template:
    """Plan a disk after the one of `size` bytes whose partition `number` holds the root.

    It gets the `wanted` size. Without one the root keeps its own, or gets less so that the disk has at most `most`
    bytes, as many as an AMI may have. Raises `NoTemplateError`, and lets errors of `read` pass.
    """
    written: tuple[Written, ...] = ()
    try:
        root, loader = _root(table, number), find_loader(read, table, size)
        if fixed := _why_fixed(table, root):
            _check_loader(loader, root, size)
            _check_size(fixed, size, most, wanted)
            end, room = size, root.size
        else:
            _check_loader(loader, root, root.offset)
            tail = gpt_tail(read, size) if table.kind is TableKind.GPT else 0
            end = (min(root.end + tail, most) if wanted is None else wanted) // SECTOR * SECTOR
            room = end - tail - root.offset
            if room <= 0:
                raise NoTemplateError(f"its root partition begins at byte {root.offset}", "give a larger --size")
            written = tuple(resized_gpt(read, size, root, end) if tail else resized_mbr(root, end))
        blank = tuple(_swapped_out(read, table, root))
    except DoubtError as error:
        raise NoTemplateError(str(error)) from error
    return Template(size=end, root=Extent(offset=root.offset, length=room), written=written, blank=blank, loader=loader)


def _root(table: PartitionTable, number: int) -> Partition:
    """The root's partition of a table without a doubt."""
    if table.kind not in (TableKind.MBR, TableKind.GPT):
        raise NoTemplateError(
            {
                TableKind.NONE: "its disk has no partition table",
                TableKind.HYBRID: "its disk has a GPT and partitions in the boot record too",
            }.get(table.kind, "the GPT of its disk is damaged")
        )
    if table.sector_size != SECTOR:
        raise NoTemplateError(f"its disk has sectors of {table.sector_size} bytes, and those of EC2 have {SECTOR}")
    if doubt := next((each.doubt for each in table.partitions if each.doubt), ""):
        raise NoTemplateError(f"its partition table is in doubt: {doubt}", "look at it: fdisk -l; " + _OTHER_WAY)
    root = next((each for each in table.partitions if each.number == number and not each.extended), None)
    if root is None:
        raise NoTemplateError(f"its partition table has no partition {number}", "let the kernel read it: partprobe")
    return root


def _why_fixed(table: PartitionTable, root: Partition) -> str:
    """The reason why the root cannot get another size, or ''."""
    if table.kind is TableKind.MBR and root.number >= _FIRST_LOGICAL:
        return "its root is a logical partition"
    behind = next((each.number for each in table.partitions if each.offset > root.offset), None)
    return f"partition {behind} lies behind its root partition" if behind else ""


def _check_size(fixed: str, size: int, most: int, wanted: int | None) -> None:
    if wanted not in (None, size):
        raise NoTemplateError(f"{fixed}, so its disk cannot get another size", "leave --size out")
    if size > most:
        raise NoTemplateError(f"{fixed}, so its disk keeps its {size} bytes, and an AMI has at most {most}")


def _check_loader(loader: BootLoader, root: Partition, end: int) -> None:
    """Refuse a boot loader that would not start from the copy, of which bytes up to `end` are taken over."""
    match loader.kind:
        case LoaderKind.GRUB_2 | LoaderKind.GRUB_LEGACY:
            _check_core(loader, root, end)
        case LoaderKind.NONE:
            if loader.efi_partition is None:
                raise NoTemplateError("its disk has no boot loader")
        case LoaderKind.OTHER:
            raise NoTemplateError("the boot loader of its disk is not GRUB, and may find its files by their blocks")


def _check_core(loader: BootLoader, root: Partition, end: int) -> None:
    core = loader.core
    if core is None or not core.whole:
        if loader.efi_partition is None:
            raise NoTemplateError(f"{_words(loader, core)} is damaged")
    elif core.partition == root.number:
        raise NoTemplateError(
            f"{_words(loader, core)} is a file in its root partition, found by its blocks, which are others in the copy"
        )
    elif core.offset >= end:
        raise NoTemplateError(f"{_words(loader, core)} lies behind its root partition")


def _words(loader: BootLoader, core: Core | None) -> str:
    return f"the core of {loader.kind.value} on its disk" + (f" (byte {core.offset})" if core else "")


def _swapped_out(read: Reader, table: PartitionTable, root: Partition) -> Iterator[Extent]:
    """The swap partitions behind their headers, which have their ids."""
    for each in table.partitions:
        if each.number == root.number or each.extended or each.size <= _SWAP_HEADER:
            continue
        within = window(read, each.offset, each.size)
        try:
            content = identify(within, each.size)
        except DoubtError:
            continue  # marked as two kinds: taken over as it is
        marked = within(_SWAP_MARK_AT, len(_SWAP_MARK)) == _SWAP_MARK
        if content and content.kind == "swap" and marked:
            yield Extent(offset=each.offset + _SWAP_HEADER, length=each.size - _SWAP_HEADER)
