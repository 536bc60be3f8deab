"""The AMI that is wanted from a disk, as far as it decides what the disk needs to boot."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    architecture: str | None = None
    """i386, x86_64 or arm64; None: that of the system."""
    paravirtual: bool = False
    is_wrapped: bool = False
    """The job puts a partition table before the file system, and a boot loader that does without a menu."""
    on_ebs: bool = False
    """The AMI is on an EBS snapshot: it is for types of the Nitro system, too."""
    boot_mode: str = ""
    """legacy-bios, uefi, uefi-preferred, or '' for that of the instance type: a BIOS, on arm64 UEFI."""
    sriov: bool = False
    ena: bool = False
