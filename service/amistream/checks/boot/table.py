"""Checks the disk itself: its partition table."""

from __future__ import annotations

from collections.abc import Iterator

from amistream.checks.boot.disk import Disk
from amistream.checks.boot.faults import failed, noted
from amistream.checks.boot.wanted import Wanted
from amistream.checks.findings import Observation
from amistream.source.disks.facts import TableKind

_SECTOR = 512


def check_table(disk: Disk, wanted: Wanted) -> Iterator[Observation]:
    table = disk.table
    if table.kind is TableKind.NONE:
        if not wanted.is_wrapped and not wanted.paravirtual:
            yield _without_table(disk)
        return
    if table.sector_size != _SECTOR:
        yield failed(
            "sector_size",
            f"its partition table is for sectors of {table.sector_size} bytes",
            why=f"EC2's disks have sectors of {_SECTOR} bytes: no partition is found",
            fix="make the disk anew, with sectors of 512 bytes",
        )
    beyond = [each for each in table.partitions if each.end > disk.size]
    for partition in beyond:
        yield failed(
            "cut_short",
            f"partition {partition.number} ends at byte {partition.end}, and the image at byte {disk.size}",
            why="the end of its file system is missing",
            fix="take the image anew: it was cut short, or is one of several files",
        )
    doubts = [each for each in table.doubts if each not in {partition.doubt for partition in beyond}]
    if table.kind is TableKind.PROTECTIVE:
        yield failed(
            "no_partitions",
            "; ".join(doubts),
            why="no partition is found",
            fix="sgdisk --verify IMAGE shows what is wrong; take the image anew, or restore the table",
        )
    elif doubts:
        yield noted(
            "table",
            "; ".join(doubts),
            why="firmware and kernels may read the table in different ways",
            fix="sgdisk --verify IMAGE shows more; sgdisk --move-second-header IMAGE after it has grown",
        )


def _without_table(disk: Disk) -> Observation:
    if disk.is_bare:
        becomes_disk = disk.volumes[0].is_ext or disk.volumes[0].kind == "xfs"
        wrap = "--partition mbr puts a table and GRUB before it; or " if becomes_disk else ""
        return failed(
            "bare_file_system",
            f"it is a bare {disk.volumes[0].kind} file system, without a partition table and a boot loader",
            why="an AMI for hvm boots from the first sector of its disk, so this one does not",
            fix=f"{wrap}take the whole disk that a system boots from; or --virtualization paravirtual with --kernel",
        )
    return failed(
        "no_table",
        "it has no partition table, and no file system that is known",
        why="an AMI for hvm boots from the first sector of its disk, so this one does not",
        fix="take the whole disk that a system boots from",
    )
