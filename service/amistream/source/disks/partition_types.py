"""Words for the types of partitions: a byte in an MBR, a GUID in a GPT."""

from __future__ import annotations

EFI_SYSTEM, BIOS_BOOT = "EFI system", "BIOS boot"
EXTENDED = (0x05, 0x0F, 0x85)
"""Types of the MBR's entries that hold further partitions."""
PROTECTIVE = 0xEE
"""The type of the MBR's entry that stands for a GPT."""

_OF_MBR = {
    0x01: "FAT12",
    0x04: "FAT16",
    0x05: "extended",
    0x06: "FAT16",
    0x07: "NTFS or exFAT",
    0x0B: "FAT32",
    0x0C: "FAT32",
    0x0E: "FAT16",
    0x0F: "extended",
    0x27: "Windows recovery",
    0x41: "PReP boot",
    0x82: "Linux swap",
    0x83: "Linux",
    0x85: "extended",
    0x8E: "Linux LVM",
    0xA5: "FreeBSD",
    0xEE: "GPT",
    0xEF: EFI_SYSTEM,
    0xFD: "Linux RAID",
}

_OF_GPT = {
    "c12a7328-f81f-11d2-ba4b-00a0c93ec93b": EFI_SYSTEM,
    "21686148-6449-6e6f-744e-656564454649": BIOS_BOOT,
    "0fc63daf-8483-4772-8e79-3d69d8477de4": "Linux",
    "0657fd6d-a4ab-43c4-84e5-0933c84b4f4f": "Linux swap",
    "e6d6d379-f507-44c2-a23c-238f2a3df928": "Linux LVM",
    "a19d880f-05fc-4d3b-a006-743f0f84911e": "Linux RAID",
    "ca7d7ccb-63ed-4c53-861c-1742536059cc": "LUKS",
    "bc13c2ff-59e6-4262-a352-b275fd6f7172": "Linux /boot",
    "44479540-f297-41b2-9af7-d131d5f0458a": "Linux root of i386",
    "4f68bce3-e8cd-4db1-96e7-fbcaf984b709": "Linux root of x86_64",
    "b921b045-1df0-41c3-af44-4c6f280d3fae": "Linux root of arm64",
    "8484680c-9521-48c6-9c11-b0720656f69e": "Linux /usr of x86_64",
    "933ac7e1-2eb4-4f13-b844-0e14e2aef915": "Linux /home",
    "3b8f8425-20e0-4f3b-907f-1a25a76f98e8": "Linux /srv",
    "4d21b016-b534-45c2-a9fb-5c16e091fd2d": "Linux /var",
    "ebd0a0a2-b9e5-4433-87c0-68b6b72699c7": "Microsoft basic data",
    "e3c9e316-0b5c-4db8-817d-f92df00215ae": "Microsoft reserved",
    "de94bba4-06d1-4d40-a16a-bfd50179d6ac": "Windows recovery",
    "9e1a2d38-c612-4316-aa26-8b49521e5a8b": "PReP boot",
    "516e7cb4-6ecf-11d6-8ff8-00022d09712b": "FreeBSD",
    "6a898cc3-1dd2-11b2-99a6-080020736631": "ZFS",
}


def mbr_type_name(kind: int) -> str:
    """The words for a type of the MBR; '' for one that is not known here."""
    return _OF_MBR.get(kind, "")


def gpt_type_name(guid: str) -> str:
    """The words for a type of a GPT; '' for one that is not known here."""
    return _OF_GPT.get(guid, "")
