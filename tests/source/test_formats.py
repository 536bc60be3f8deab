"""Formats of disk images: recognised by their bytes, and none reaches a program unchecked."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from amistream.source.file import FileVolume
from amistream.source.opening import open_source
from amistream.source.qemu.formats import FOOTER, FORMATS, HEAD, Format, Magic, detect_format
from amistream.source.qemu.headers import check_vdi
from support.volumes import random_image


def test_formats_by_their_bytes(tmp_path: Path) -> None:
    """Formats are recognised by their first bytes, a fixed-size VHD by its last; other files are raw."""
    assert detect_format(b"QFI\xfb\0\0\0\3") is Format.QCOW2
    assert detect_format(b"KDMV\1\0") is Format.VMDK
    assert detect_format(b"vhdxfileM") is Format.VHDX
    assert detect_format(b"conectix\0") is Format.VHD
    assert detect_format(bytes(20), b"conectix" + bytes(504)) is Format.VHD
    assert detect_format(b"", b"") is None
    for size in (0, 1, 511, 5000):
        with closing(open_source(str(random_image(tmp_path / "raw", size)))) as volume:
            assert isinstance(volume, FileVolume)
            assert volume.size == size


def test_each_format_has_an_entry() -> None:
    """Each format has words and a magic, and what `HEAD` and `FOOTER` hold recognises it."""
    for known in Format:
        assert known.words
        for magic in FORMATS[known].magics:
            head = bytes(max(0, magic.offset)) + magic.text
            tail = magic.text.ljust(FOOTER, b"\0") if magic.offset < 0 else b""
            assert detect_format(b"" if tail else head[:HEAD], tail) is known


def test_a_magic_at_an_offset() -> None:
    """A magic is looked for at its offset only."""
    magic = Magic(b"\x7f\x10\xda\xbe", check_vdi, offset=64)
    assert magic.is_in(bytes(64) + magic.text, b"")
    assert not magic.is_in(magic.text.ljust(100, b"\0"), magic.text)
