"""Inspects a disk: its partitions and file systems, its boot loader, and what a bundle would hold of it.

Reads and changes nothing else: no daemon, no rights beyond reading the source, and no network but for a snapshot.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from amistream.aws.session import Aws
from amistream.checks.boot.of_request import examine_volume
from amistream.checks.boot.wanted import Wanted
from amistream.checks.findings import Finding, Observation, notice
from amistream.checks.free_blocks import doubts, map_volume
from amistream.checks.snapshot_source import open_snapshot_source
from amistream.checks.source import look_at
from amistream.checks.tree_wishes import no_directory
from amistream.errors import RefusedError
from amistream.flow.cancel import finish_despite_cancel
from amistream.host.mounts import mount_point
from amistream.ports.volume import Volume
from amistream.settings import Settings
from amistream.source.boot_choice import BootAreaChoice, Partitioning
from amistream.source.boot_opening import open_with_boot_area
from amistream.source.disk_reader import reader_of
from amistream.source.disks.disk_map import Area
from amistream.source.disks.loader import find_loader
from amistream.source.opening import open_source, tree_of
from amistream.source.tree.categories import BY_DEFAULT
from amistream.source.tree.opening import TreeWishes
from amistream.units import size_text
from amistream.values import GIB, Extent, LeftOut, as_utf8

_LARGEST_IMAGE = int(Settings.model_fields["max_image_size"].default)
_LARGEST_TREE = 1024 * GIB
"""A directory that does not fit into an AMI is inspected up to this size: its image is never made."""


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class AreaFacts(_Model):
    """A partition, or the whole of a disk without a table. Offsets and sizes in bytes."""

    number: int | None = Field(description="of the partition, or null for the whole disk")
    offset: int
    size: int
    type_id: str = Field("", description="as the table has it: 0x83, or a GUID")
    type_name: str = Field("", description="the type in words, or empty for one that is not known")
    name: str = Field("", description="of the partition, in a GPT")
    partition_uuid: str = ""
    bootable: bool = False
    file_system: str = Field("", description="as blkid names it, or empty for content that is not known")
    label: str = ""
    uuid: str = ""
    file_system_size: int | None = None
    used: int | None = Field(None, description="bytes in use, or null where they are not known")
    bundled: int = Field(description="bytes that a bundle would read")
    doubt: str = Field("", description="why the table or the file system is not trusted")


class DiskFacts(_Model):
    """A disk, as `amistream inspect` reports it. Sizes in bytes."""

    type: Literal["disk"] = "disk"
    source: str
    kind: str = Field(description="image file, block device, image of a virtual machine, or EBS snapshot")
    size: int
    mounted: str = Field(description="where it, or a part of it, is mounted read-write, or empty")
    table: str = Field(description="none, mbr, gpt, hybrid, or protective (a GPT that cannot be read)")
    disk_id: str
    sector_size: int
    boot_loader: str = Field(description="GRUB 2, GRUB legacy, other, or none")
    boot_core: str = Field(description="the place of GRUB's core: gap, BIOS boot partition, block list, outside")
    boot_core_whole: bool | None = Field(description="false for a damaged core, null without one")
    efi_partition: int | None = Field(description="from which UEFI boots, or null")
    areas: tuple[AreaFacts, ...]
    bundled: int = Field(description="bytes that a bundle would read")
    left_out: LeftOut = Field(description="bytes that a bundle would leave out")
    findings: tuple[Finding, ...]


def inspect_disk(source: str, *, as_it_is: bool = False, clean: Sequence[str] | None = None) -> DiskFacts:
    """Inspect the disk in an image or on a device, or that made of a directory.

    Raises `RefusedError`, or `SourceError` if it cannot be read.
    `as_it_is`: the bytes are the disk, whatever they look like. `clean`: the categories that are left out of a
    directory, in place of those by default. Blocks.
    """
    # A volume that is written to meanwhile can be inspected, too.
    choice = BootAreaChoice(Partitioning.AUTO)
    volume = open_source(
        source, live=True, as_it_is=as_it_is, tree=lambda directory: _open_tree(directory, choice, clean)
    )
    return _inspect(source, volume, as_it_is=as_it_is, clean=clean, wanted=Wanted(is_wrapped=choice.is_new))


async def inspect_snapshot(
    aws: Aws, settings: Settings, snapshot_id: str, *, as_it_is: bool = False, clean: Sequence[str] | None = None
) -> DiskFacts:
    """Inspect the disk in an EBS snapshot, of which only the blocks that are looked at are read.

    Raises as `inspect_disk`, and `StoreError`.
    """
    volume = await open_snapshot_source(
        aws,
        settings,
        snapshot_id,
        region=await aws.default_region(),
        endpoint_url=settings.endpoint_url.rstrip("/"),
    )
    work = asyncio.to_thread(_inspect, snapshot_id, volume, as_it_is=as_it_is, clean=clean, wanted=Wanted(on_ebs=True))
    return await finish_despite_cancel(work, on_cancel=volume.interrupt)


def _inspect(source: str, volume: Volume, *, as_it_is: bool, clean: Sequence[str] | None, wanted: Wanted) -> DiskFacts:
    """Inspect an open volume, and close it."""
    try:
        if clean is not None and tree_of(volume) is None:
            raise no_directory("clean", source)
        doubt = "" if as_it_is else look_at(volume)
        return _facts(source, volume, doubt, wanted)
    finally:
        volume.close()


def _open_tree(directory: Path, choice: BootAreaChoice, clean: Sequence[str] | None) -> Volume:
    """Open a directory with the size that its image would have, or a larger one if it does not fit."""
    categories = BY_DEFAULT if clean is None else clean
    wishes = TreeWishes(most=_LARGEST_IMAGE, allow_unreadable=True, clean=categories)
    try:
        return open_with_boot_area(choice, directory, wishes)
    except RefusedError as error:
        if error.code != "source.no_room":
            raise
    return open_with_boot_area(choice, directory, replace(wishes, most=_LARGEST_TREE))


def _facts(source: str, volume: Volume, doubt: str, wanted: Wanted) -> DiskFacts:
    read, data = reader_of(volume), volume.extents()
    disk = map_volume(volume)
    place = mount_point(volume.identity, writable=True)
    used = data if place else disk.used(data)
    loader = find_loader(read, disk.table, volume.size)
    return DiskFacts(
        source=as_utf8(source),
        kind=volume.kind.value,
        size=volume.size,
        mounted=place,
        table=disk.table.kind.value,
        disk_id=disk.table.disk_id,
        sector_size=disk.table.sector_size,
        boot_loader=loader.kind.value,
        boot_core=loader.core.place.value if loader.core else "",
        boot_core_whole=loader.core.whole if loader.core else None,
        efi_partition=loader.efi_partition,
        areas=tuple(_area_facts(area, used) for area in disk.areas),
        bundled=sum(extent.length for extent in used),
        left_out=LeftOut(holes=volume.size - sum(extent.length for extent in used)) if place else disk.left_out(used),
        findings=(
            *_named("source", [notice(doubt, why="the AMI may not boot")] if doubt else []),
            *_named("size", [_too_large()] if volume.size > _LARGEST_IMAGE else []),
            *_named("mount", [_mounted(place)] if place else []),
            *_named("free_blocks", list(doubts(disk, volume, used))),
            *_named("boot", examine_volume(volume, wanted)),
        ),
    )


def _named(name: str, observations: Sequence[Observation]) -> list[Finding]:
    return [Finding(name=name, **asdict(observation)) for observation in observations]


def _too_large() -> Observation:
    return notice(
        f"it does not fit into an AMI, which has at most {size_text(_LARGEST_IMAGE)}",
        why="a bundle would be refused",
        fix="of a directory leave something out with --exclude; shrink the last file system and partition of a disk",
    )


def _mounted(place: str) -> Observation:
    return notice(
        f"it is mounted read-write on {place}",
        why="a bundle would be refused, and what is shown here may change at any moment",
        fix="umount it, or inspect a snapshot",
    )


def _area_facts(area: Area, used: Sequence[Extent]) -> AreaFacts:
    partition, file_system = area.partition, area.file_system
    return AreaFacts(
        number=partition.number if partition else None,
        offset=area.offset,
        size=area.size,
        type_id=partition.type_id if partition else "",
        type_name=partition.type_name if partition else "",
        name=partition.name if partition else "",
        partition_uuid=partition.uuid if partition else "",
        bootable=partition.bootable if partition else False,
        file_system=area.kind,
        label=file_system.label if file_system else "",
        uuid=file_system.uuid if file_system else "",
        file_system_size=file_system.size if file_system else None,
        used=area.used.size - area.used.free if area.used else None,
        bundled=area.bytes_of(used),
        doubt=(partition.doubt if partition else "") or area.doubt,
    )
