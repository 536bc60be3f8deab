"""Finds what comes into an image from the other partitions of a live tree's disk, and what of them is left out.

Rules for the tree's files do not reach there, so a notice names every partition that is more than a boot area.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from amistream.checks.findings import Observation, notice
from amistream.checks.free_blocks import BOOT_AREAS, Blocks, doubts, kept_whole, place_of, summary
from amistream.host.mounts import offsets_on, writable_mounts
from amistream.source.clone import CloneVolume
from amistream.source.disk_reader import reader_of
from amistream.source.disks.disk_map import Area, map_disk
from amistream.units import size_text
from amistream.values import KIB, MIB, Extent

_SWAP_HEADER = 4 * KIB
"""Of a swap partition nothing else is taken over."""
_BOOT_GAP = 4 * MIB
"""Bytes outside of all partitions that alignment and boot loaders account for. Guess."""


def find_taken_over(volume: CloneVolume, data: Sequence[Extent]) -> Blocks:
    """Find the used blocks of the partitions besides the tree's own. Those that may be written to are kept whole."""
    disk = map_disk(reader_of(volume), volume.size)
    devices = {mount.device for mount in writable_mounts(volume.disk.identity)}
    in_use = offsets_on(volume.disk.identity, devices)
    others = [
        area for area in disk.areas if area.offset != volume.root.offset and area.bytes_of(volume.copied) > _SWAP_HEADER
    ]
    quiet = replace(disk, areas=tuple(area for area in others if area.offset not in in_use))
    used = quiet.used(data)
    left_out = quiet.left_out(used)
    observations = [summary(used, left_out), *_named(volume, others), *doubts(quiet, volume.disk, used)]
    observations += [
        kept_whole(place_of(area, volume.disk), "it is mounted read-write")
        for area in others
        if area.offset in in_use and not _boots(area)
    ]
    return Blocks(used=used, left_out=left_out, observations=tuple(observations))


def _named(volume: CloneVolume, others: Sequence[Area]) -> Iterator[Observation]:
    """A notice that names what is taken over, but for boot areas."""
    found = [f"{place_of(area, volume.disk)}, {size_text(area.size)}" for area in others if not _boots(area)]
    outside = sum(each.length for each in volume.copied) - sum(area.bytes_of(volume.copied) for area in others)
    if outside > _BOOT_GAP:
        found.append(f"{size_text(outside)} outside of all partitions")
    if found:
        yield notice(
            f"the image gets more of {volume.disk.path} than its boot area: {'; '.join(found)}",
            why="no --exclude and no --clean reaches there",
            fix="--partition mbr takes nothing over; for /boot that is a partition of its own it is no way",
        )


def _boots(area: Area) -> bool:
    return area.partition is not None and area.partition.type_name in BOOT_AREAS
