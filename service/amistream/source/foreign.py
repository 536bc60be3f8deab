"""Files that are no disk: archives, compressed files, programs, images that no tool here reads.

Each is recognised by its bytes and refused with the line that makes a disk of it, because such a file would be bundled
and registered as the disk, and the AMI would not boot. `source_format` "raw" takes the bytes as they are.

Pure: bytes in, values out.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from amistream.values import quoted

HEAD = 36 * 1024
"""The first bytes that `recognise` looks at: an ISO 9660 image has its mark at 32 KiB."""
TAIL = 512

AS_IT_IS = "if these bytes are the disk all the same: amistream bundle --source-format raw"

Sign: TypeAlias = Callable[[bytes, bytes], object]
"""Recognises a kind of file by its first and last bytes."""

_BUNDLE = "amistream bundle - --image-size SIZE --in-process"
_PIPE = f"send the disk in it through a pipe: {{}} FILE | {_BUNDLE}"
_SECTOR = 512
_ZFS = (0x2F5BACBAC).to_bytes(8, "little")
_VMWARE_STATE = tuple(bytes((first, second) * 2) for first, second in ((0xD0, 0xBE), (0xD1, 0xBA), (0xD2, 0xBE)))


@dataclass(frozen=True, slots=True)
class Foreign:
    """A kind of file. `unpack`: the command that unpacks the file named behind it, or standard input, to a pipe."""

    words: str
    sign: Sign
    unpack: str = ""
    fix: str = "give the disk itself as SOURCE"
    """Another command that makes a disk of it; FILE is the file."""

    def hint(self, path: str) -> str:
        """The line that works, for the file at `path`; '' for standard input."""
        file = quoted(path) if path else "FILE"
        if not self.unpack:
            fix = self.fix.replace("FILE", file)
        elif path:
            fix = f"unpack it through a pipe: {self.unpack} {file} | {_BUNDLE}, with the SIZE that "
            fix += f"`{self.unpack} {file} | wc -c` counts"
        else:
            fix = f"unpack it on the way: ... | {self.unpack} | {_BUNDLE}, SIZE being that of the disk"
        return f"{fix}; {AS_IT_IS}"


def recognise(head: bytes, tail: bytes = b"") -> Foreign | None:
    """The kind of a file that is no disk, by its first `HEAD` and last `TAIL` bytes; None for anything else."""
    return next((each for each in _KINDS if each.sign(head, tail)), None)


def _begins(*texts: bytes, at: int = 0) -> Sign:
    return lambda head, _: head.startswith(texts, at)


def _matches(pattern: bytes) -> Sign:
    compiled = re.compile(pattern, re.DOTALL)
    return lambda head, _: compiled.match(head)


def _is_tar(head: bytes, _: bytes) -> bool:
    """POSIX and GNU have a mark; older archives only the sum of the header's bytes."""
    field = head[148:156].strip(b" \0")
    if head[257:262] == b"ustar" or not re.fullmatch(rb"[0-7]{3,7}", field):
        return head[257:262] == b"ustar"
    return int(field, 8) == sum(head[:148]) + sum(head[156:_SECTOR]) + 8 * 32


def _is_windows_program(head: bytes, _: bytes) -> bool:
    place = int.from_bytes(head[60:64], "little")
    return head.startswith(b"MZ") and head.startswith(b"PE\0\0", place)


_KINDS = (
    Foreign("a gzip file", _begins(b"\x1f\x8b\x08"), "gzip -dc"),
    Foreign("an xz file", _begins(b"\xfd7zXZ\0"), "xz -dc"),
    # Both write frames to be skipped, with the same mark.
    Foreign("a zstd or lz4 file", _matches(rb"[\x50-\x5f]\x2a\x4d\x18"), "zstd -dc"),
    Foreign("a zstd file", _begins(b"\x28\xb5\x2f\xfd"), "zstd -dc"),
    Foreign("an lz4 file", _begins(b"\x04\x22\x4d\x18", b"\x02\x21\x4c\x18"), "lz4 -dc"),
    Foreign("a bzip2 file", _matches(rb"BZh[1-9](1AY&SY|\x17\x72\x45\x38\x50\x90)"), "bzip2 -dc"),
    Foreign("an lzip file", _begins(b"LZIP"), "lzip -dc"),
    Foreign("an lzop file", _begins(b"\x89LZO\0\r\n\x1a\n"), "lzop -dc"),
    Foreign("an lrzip file", _begins(b"LRZI"), "lrzcat"),
    Foreign("a snappy file", _begins(b"\xff\x06\0\0sNaPpY"), "snzip -dc"),
    Foreign("a file of compress", _matches(rb"\x1f\x9d[\x89-\x90\x09-\x10]"), "gzip -dc"),
    Foreign("an lzma file", _matches(rb"\x5d\0\0..(?:\xff{8}|.{5}\0{3})\0"), "xz --format=lzma -dc"),
    Foreign(
        "a zip archive",
        _begins(b"PK\3\4", b"PK\5\6", b"PK\7\x08"),
        fix=_PIPE.format("unzip -p"),
    ),
    Foreign(
        "a 7z archive",
        _begins(b"7z\xbc\xaf\x27\x1c"),
        fix=_PIPE.format("7z x -so"),
    ),
    Foreign(
        "a rar archive",
        _begins(b"Rar!\x1a\x07"),
        fix=_PIPE.format("unrar p -inul"),
    ),
    Foreign(
        "an OVA, a tar archive with a virtual machine",
        lambda head, tail: _is_tar(head, tail) and re.match(rb"[^\0]*\.ovf\0", head),
        fix="take the disk out of it: tar -xf FILE, then give the .vmdk file as SOURCE",
    ),
    Foreign(
        "a tar archive",
        _is_tar,
        fix=f"send the disk in it through a pipe: tar -xOf FILE NAME | {_BUNDLE}, with the NAME and SIZE that "
        "`tar -tvf FILE` shows",
    ),
    Foreign("a cpio archive", _begins(b"070701", b"070702", b"070707"), fix="take the disk out of it: cpio -i < FILE"),
    Foreign("an ar archive or package", _begins(b"!<arch>\n"), fix="take the disk out of it: ar x FILE"),
    Foreign("a WIM archive", _begins(b"MSWIM\0\0\0"), fix="apply it to a disk: wimapply FILE DEVICE"),
    Foreign(
        "a LUKS volume, which EC2 cannot open",
        _begins(b"LUKS\xba\xbe"),
        fix="bundle the disk in it: cryptsetup open --readonly FILE plain, then give /dev/mapper/plain as SOURCE",
    ),
    Foreign(
        "a DMG image",
        lambda _, tail: tail.startswith(b"koly\0\0\0\4\0\0\2\0"),
        fix="convert it: qemu-img convert -f dmg -O raw FILE disk.img, then give disk.img as SOURCE",
    ),
    Foreign(
        "a Bochs image",
        _begins(b"Bochs Virtual HD Image"),
        fix="convert it: qemu-img convert -f bochs -O raw FILE disk.img, then give disk.img as SOURCE",
    ),
    Foreign(
        "a cloop image",
        _begins(b"#!/bin/sh\n#V2.0 Format\n"),
        fix="convert it: qemu-img convert -f cloop -O raw FILE disk.img, then give disk.img as SOURCE",
    ),
    Foreign(
        "a part of a disk of VMware ESX",
        _begins(b"COWD", b"\xbe\xba\xfe\xca\0\0\0\0"),
        fix="make one image of all parts, from their description, the small .vmdk file: "
        "qemu-img convert -f vmdk -O qcow2 DISK.vmdk WHOLE.qcow2",
    ),
    Foreign(
        "a description of a VMDK, without its data",
        _matches(rb"[\t\n\r -~]{0,2000}createType\s*="),
        fix="make one image of the files that it names: qemu-img convert -f vmdk -O qcow2 FILE WHOLE.qcow2",
    ),
    Foreign("an Android sparse image", _begins(b"\x3a\xff\x26\xed"), fix="convert it: simg2img FILE disk.img"),
    Foreign("a partclone image", _begins(b"partclone-image"), fix="restore it: partclone.restore -s FILE -o disk.img"),
    Foreign("an ntfsclone image", _begins(b"\0ntfsclone-image"), fix="restore it: ntfsclone -r -o disk.img FILE"),
    Foreign("an FSArchiver image", _begins(b"FsArCh_"), fix="restore it: fsarchiver restfs FILE id=0,dest=DEVICE"),
    Foreign("an EnCase image", _begins(b"EVF\x09\x0d\x0a\xff\0"), fix="convert it: ewfexport -f raw -t disk FILE"),
    Foreign("a stream of btrfs", _begins(b"btrfs-stream\0"), fix="restore it into a file system: btrfs receive < FILE"),
    Foreign(
        "a stream of zfs", _begins(_ZFS, _ZFS[::-1], at=8), fix="restore it into a pool: zfs receive DATASET < FILE"
    ),
    Foreign("a dump of XFS", _begins(b"xFSdump0"), fix="restore it into a file system: xfsrestore -f FILE FOLDER"),
    Foreign("a backup of Proxmox", _begins(b"VMA\0\0\0\0\1"), fix="take the disk out of it: vma extract FILE FOLDER"),
    Foreign("a file encrypted by openssl", _begins(b"Salted__"), fix=_PIPE.format("openssl enc -d CIPHER -in")),
    Foreign("a file encrypted by age", _begins(b"age-encryption.org/v1\n"), fix=_PIPE.format("age -d")),
    Foreign(
        "a file encrypted by GnuPG",
        _matches(rb"\x8c\x0d\x04[\x01-\x0d][\0\1\3]|\x85[\1\2]\x0c\x03|\x84\x5e\x03"),
        fix=_PIPE.format("gpg -d"),
    ),
    Foreign(
        "a BitLocker volume, which EC2 cannot open",
        _begins(b"-FVE-FS-", at=3),
        fix="take the encryption off, on Windows: manage-bde -off DRIVE",
    ),
    Foreign("a cabinet archive", _begins(b"MSCF\0\0\0\0"), fix=_PIPE.format("cabextract -p")),
    Foreign("an rpm package", _begins(b"\xed\xab\xee\xdb"), fix="take the disk out of it: rpm2archive FILE"),
    Foreign("a virtual machine's memory", _begins(b"QEVM", b"LinuxGuestRecord", b"LibvirtQemudSave", *_VMWARE_STATE)),
    Foreign("a Linux kernel", _begins(b"HdrS", at=514)),
    Foreign("a Windows or EFI program", _is_windows_program),
    Foreign("an ELF program", _begins(b"\x7fELF")),
    Foreign("a script", _begins(b"#!/")),
    Foreign("a PEM file: a key or a certificate", _begins(b"-----BEGIN ")),
    Foreign(
        "a bundle's manifest",
        _matches(rb"(\xef\xbb\xbf)?\s*(<\?xml[^>]*>\s*)?<manifest>"),
        fix="take the image out of the bundle: amistream unbundle FILE disk.img",
    ),
    Foreign("an XML or HTML file", _matches(rb"(?i)(\xef\xbb\xbf)?\s*<(\?xml|!doctype|html|envelope)")),
    Foreign("a pointer of Git LFS", _begins(b"version https://git-lfs"), fix="get the file itself: git lfs pull"),
    Foreign("a PDF file", _begins(b"%PDF-")),
)
