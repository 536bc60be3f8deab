"""Kinds of content that a mark alone shows, as a table of marks and places.

amistream reads none of these further. They are known so that what an older file system left behind on the same
partition is not taken for its content.
"""

from __future__ import annotations

from dataclasses import dataclass

from amistream.source.disks.facts import FileSystem
from amistream.source.disks.ids import label_text, uuid_text
from amistream.source.disks.reading import Reader
from amistream.values import KIB, MIB


@dataclass(frozen=True, slots=True)
class Mark:
    """A kind with its mark. Other places count from the mark's on."""

    kind: str
    place: int
    """From the end, if negative."""
    mark: bytes
    uuid: int | None = None
    """None: it has none, or none that is needed."""
    label: tuple[int, int] = (0, 0)
    """Place and length."""
    encoding: str = "utf-8"

    def __call__(self, read: Reader, size: int) -> FileSystem | None:
        place = self.place if self.place >= 0 else size + self.place
        reach = max(len(self.mark), 0 if self.uuid is None else self.uuid + 16, sum(self.label))
        if not 0 <= place <= size - reach or read(place, len(self.mark)) != self.mark:
            return None
        return FileSystem(
            kind=self.kind,
            uuid="" if self.uuid is None else uuid_text(read(place + self.uuid, 16)),
            label=label_text(read(place + self.label[0], self.label[1]), self.encoding),
        )


MEMBERS = (
    Mark("BitLocker", 0, b"\xeb\x58\x90-FVE-FS-"),
    Mark("bcache", 4 * KIB + 24, bytes.fromhex("c68573f64e1a45ca8265f57f48ba6d81"), uuid=16),
    Mark("DM_integrity", 0, b"integrity\0"),
    Mark("DM_verity_hash", 0, b"verity\0\0"),
    Mark("VMFS_volume_member", MIB, b"\x0d\xd0\x01\xc0"),
    Mark("ceph_bluestore", 0, b"bluestore block device\n"),
    Mark("ddf_raid_member", -512, b"\xde\x11\xde\x11"),
    Mark("isw_raid_member", -1024, b"Intel Raid ISM Cfg Sig. "),
    Mark("stratis", 516, b"!Stra0tis\x86\xff\x02^\x41rh"),
    Mark("vdo", 0, b"dmvdo001"),
)
"""Members of something larger."""
TABLES = (
    Mark("Amiga table", 0, b"RDSK"),
    Mark("BSD table", 512, b"\x57\x45\x56\x82"),
    Mark("SGI table", 0, b"\x0b\xe5\xa9\x41"),
    Mark("Sun table", 188, b"\x60\x0d\xde\xee"),
)
"""Tables of partitions that are not read: made over a file system, they leave its superblock as it was."""
FILE_SYSTEMS = (
    *TABLES,
    Mark("ReFS", 0, b"\0\0\0ReFS\0"),
    Mark("apfs", 32, b"NXSB"),
    Mark("bcachefs", 4 * KIB + 24, bytes.fromhex("c68573f666ce90a9d96a60cf803df7ef")),
    Mark("cramfs", 0, b"\x45\x3d\xcd\x28"),
    Mark("erofs", 1024, b"\xe2\xe1\xf5\xe0", uuid=48, label=(64, 16)),
    Mark("f2fs", 1024, b"\x10\x20\xf5\xf2", uuid=108, label=(124, 1024), encoding="utf-16-le"),
    Mark("gfs2", 64 * KIB, b"\x01\x16\x19\x70"),
    Mark("jfs", 32 * KIB, b"JFS1", uuid=136, label=(152, 16)),
    *(Mark("ocfs2", place * KIB, b"OCFSV2") for place in (1, 2, 4, 8)),
    Mark("oracleasm", 32, b"ORCLDISK"),
    Mark("reiser4", 64 * KIB, b"ReIsEr4"),
    *(Mark("reiserfs", 64 * KIB + 52, b"ReIsEr" + end, uuid=32, label=(48, 16)) for end in (b"Fs", b"2Fs", b"3Fs")),
    Mark("romfs", 0, b"-rom1fs-"),
    *(
        Mark("ufs", block * KIB + 0x55C, mark)
        for block in (8, 64)
        for mark in (b"\x54\x19\x01\x00", b"\x00\x01\x19\x54", b"\x19\x01\x54\x19", b"\x19\x54\x01\x19")
    ),
    Mark("zonefs", 0, b"SFOZ"),
)
