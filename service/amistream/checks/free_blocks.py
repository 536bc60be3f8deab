"""Finds the free blocks of a volume's file systems, which are left out, and reports where they cannot be.

Every doubt about a partition keeps all of it, with one notice. So does a file system that may be written to meanwhile,
unless it was frozen before.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from amistream.checks.findings import Observation, notice
from amistream.errors import SourceError
from amistream.host.devices import sector_size
from amistream.host.mounts import mount_point
from amistream.ports.volume import Kind, Volume
from amistream.source.disk_reader import reader_of
from amistream.source.disks.disk_map import Area, DiskMap, map_disk
from amistream.source.disks.facts import PartitionTable
from amistream.source.disks.partition_types import BIOS_BOOT, EFI_SYSTEM
from amistream.units import left_out_text, size_text
from amistream.values import Extent, LeftOut, quoted

BOOT_AREAS = (BIOS_BOOT, EFI_SYSTEM, "PReP boot")
"""Types of partitions that are kept whole without a word: nothing was ever deleted there that is worth one."""
_FILL = (
    "it needs no repair; to overwrite the deleted files, mount it, fill it with a file of zeros (cat /dev/zero >FILE), "
    "and remove that file"
)
_WHY = "deleted files go into the image, and more has to be sent"


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocks:
    """The ranges of a volume to read, and what they leave out."""

    used: tuple[Extent, ...]
    left_out: LeftOut
    observations: tuple[Observation, ...]


def find_blocks(volume: Volume, data: Sequence[Extent], *, frozen: Collection[int] = ()) -> Blocks:
    """Find the used blocks of a volume that nothing writes to, within its `data`: the extents outside of its holes.

    `frozen`: the offsets of the file systems that were frozen.
    """
    try:
        disk = map_volume(volume, frozen=frozen)
    except SourceError:
        return keep_all(volume, data, "it cannot be read")  # the job fails later, with a message of its own
    used = disk.used(data)
    left_out = disk.left_out(used)
    return Blocks(used=used, left_out=left_out, observations=(summary(used, left_out), *doubts(disk, volume, used)))


def map_volume(volume: Volume, *, frozen: Collection[int] = ()) -> DiskMap:
    """Map the disk in a volume. Raises `SourceError` where it cannot be read."""
    sectors = sector_size(volume.identity.st_rdev) if volume.kind is Kind.BLOCK_DEVICE else None
    return map_disk(reader_of(volume), volume.size, sector_size=sectors, frozen=frozen)


def keep_all(volume: Volume, data: Sequence[Extent], why: str) -> Blocks:
    """Read all of the `data`, for a reason."""
    left_out = LeftOut(holes=volume.size - sum(extent.length for extent in data))
    return Blocks(used=tuple(data), left_out=left_out, observations=(summary(data, left_out, why),))


def summary(used: Sequence[Extent], left_out: LeftOut, why: str = "") -> Observation:
    size = size_text(sum(extent.length for extent in used))
    left = left_out_text(left_out)
    found = f"{size} are read, and left out are {left}" if left else f"all {size} are read"
    return Observation(f"{found}: {why}" if why else found)


def doubts(disk: DiskMap, volume: Volume, used: Sequence[Extent]) -> Iterator[Observation]:
    """A notice for each place whose free blocks are bundled, or may be. `used`: the ranges that are read."""
    for doubt, places in _table_doubts(disk.table, volume).items():
        yield kept_whole(" and ".join(places), doubt, f"look at its partition table: fdisk -l {quoted(volume.path)}")
    for area in disk.areas:
        if area.used or not area.trusted or not area.bytes_of(used):
            continue
        place, partition = place_of(area, volume), area.partition
        if area.doubt:
            yield kept_whole(place, area.doubt, _repair(area, volume) if area.understood else _FILL)
        elif partition and partition.type_name in BOOT_AREAS:
            continue
        elif area.kind:
            yield kept_whole(place, f"those of {area.kind} cannot be found")
        elif partition:
            yield kept_whole(place, "its content is not known")
    if places := [place_of(area, volume) for area in disk.areas if area.used and area.used.keeps_preallocated]:
        yield notice(
            f"{' and '.join(places)}: blocks that files were given and never wrote count as used",
            why="deleted files may go into the image with them",
        )


def _table_doubts(table: PartitionTable, volume: Volume) -> dict[str, list[str]]:
    """The partitions, or the disk, that the table itself puts in doubt, by its sentence, which may go for several."""
    if not table.partitions:
        return {"; ".join(table.doubts): [str(volume.path)]} if table.doubts else {}
    found: dict[str, list[str]] = {}
    for partition in table.partitions:
        if not partition.trusted:
            found.setdefault(partition.doubt, []).append(f"partition {partition.number}")
    return found


def kept_whole(place: str, doubt: str, fix: str = "") -> Observation:
    return notice(f"{place} is taken with its free blocks, because {doubt}", why=_WHY, fix=fix)


def place_of(area: Area, volume: Volume) -> str:
    """The area in words, with its file system."""
    place = f"partition {area.partition.number}" if area.partition else str(volume.path)
    return f"{place} ({area.kind})" if area.kind else place


def _repair(area: Area, volume: Volume) -> str:
    """The commands that remove most doubts about a file system."""
    path, number, attach = str(volume.path), area.partition.number if area.partition else 0, ""
    if volume.kind is Kind.CONVERTED_IMAGE:
        return "start the virtual machine and shut it down cleanly"
    if place := mount_point(volume.identity, writable=True):
        attach = f"never while it is mounted: first umount {quoted(place)}, then "
    if not number:
        device = quoted(path)
    elif volume.kind is Kind.BLOCK_DEVICE:
        device = quoted(f"{path}p{number}" if path[-1].isdigit() else f"{path}{number}")
    else:
        device, attach = (
            f"/dev/loopNp{number}",
            f"{attach}losetup --find --show --partscan {quoted(path)} gives it a device: then ",
        )
    if area.kind.startswith("ext"):
        return f"{attach}e2fsck -f {device}"
    if area.kind == "xfs":
        return f"{attach}mount and umount {device}, which replays its log; if that fails, xfs_repair {device}"
    return ""
