"""Unarchive: restores the one file of an archive by GNU tar, Python or our own stage; names the flaw of any other."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amistream.stages.archive import Archive, sparse_headers
from amistream.stages.back import unarchive as module
from amistream.stages.back.flaw import FlawError
from amistream.stages.back.unarchive import Unarchive, Unarchived
from amistream.values import GIB, KIB, Buffer, Extent
from bundles.shell_bundle import tar
from stages.transform_check import Outcome, ask, carry, check_transform, cut_data
from support.volumes import sparse_image

NAME = "image"


def unarchived(pieces: Sequence[Buffer]) -> Outcome:
    """Put the pieces in their places; the rest stays zeros."""
    unarchive = Unarchive()
    image = bytearray()
    end = 0
    try:
        for piece in pieces:
            for made in unarchive.feed(piece):
                assert made.offset >= end, "not ascending"
                end = made.offset + len(made)
                image += bytes(end - len(image))
                image[made.offset : end] = made.data
        assert list(unarchive.finish()) == []
    except FlawError as flaw:
        return Outcome(b"", flaw.code)
    result = unarchive.result()
    return Outcome(bytes(image) + bytes(result.image_size - len(image)), result)


def archived(data: bytes, extents: Sequence[Extent] | None = None) -> bytes:
    archive = Archive(name=NAME, size=len(data), mtime=0, extents=extents)
    pieces = [data] if extents is None else [data[extent.offset : extent.end] for extent in extents]
    return carry(archive, pieces)


def python_tar(
    *members: tuple[tarfile.TarInfo, bytes], form: int = tarfile.GNU_FORMAT, headers: dict[str, str] | None = None
) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w|", format=form, pax_headers=headers) as archive:
        for member, data in members:
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return file.getvalue()


def member(name: str = NAME, **fields: object) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    for field, value in fields.items():
        setattr(made, field, value)
    return made


def flaw_of(archive: bytes) -> object:
    return check_transform(unarchived, archive, [100, 512, 513, len(archive) // 2]).result


@settings(deadline=None, max_examples=30)
@given(cut_data(max_size=1500))
def test_cuts(data_and_cuts: tuple[bytes, list[int]]) -> None:
    """However our own archive is cut, the volume is restored, with the SHA-1 of the whole archive."""
    data, cuts = data_and_cuts
    archive = archived(data)
    outcome = check_transform(unarchived, archive, cuts)
    assert outcome.output == data
    assert outcome.result.archive.sha1 == hashlib.sha1(archive).digest()  # type: ignore[attr-defined] # it is a result
    assert outcome.result.archive.size == len(archive)  # type: ignore[attr-defined] # the same


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(1, 40), max_size=40), st.booleans(), st.binary(min_size=512, max_size=512))
def test_sparse_ones_of_ours(lengths: list[int], hole_first: bool, block: bytes) -> None:
    """A sparse volume of any number of extents, up to several extension blocks, is restored."""
    extents, data, is_hole = [], bytearray(), hole_first
    for length in lengths:
        if not is_hole:
            extents.append(Extent(offset=len(data), length=length * 512))
        data += (bytes(512) if is_hole else block) * length
        is_hole = not is_hole
    outcome = unarchived([archived(bytes(data), extents)])
    assert outcome.output == data
    assert outcome.result.sparse  # type: ignore[attr-defined] # it is a result


EXTENTS = {
    "no data": [],
    "a hole at the end": [(0, 8 * KIB)],
    "a hole in front": [(64 * KIB, 36 * KIB)],
    "four": [(at * 20 * KIB, 4 * KIB) for at in range(4)],
    "five": [(at * 20 * KIB, 4 * KIB) for at in range(5)],
    "many": [(at * 8 * KIB, 4 * KIB) for at in range(100)],
}


@pytest.mark.parametrize("kind", EXTENTS)
def test_sparse_ones_of_gnu_tar(kind: str, tmp_path: Path) -> None:
    """A file with holes archived by `tar --sparse` is restored with its holes."""
    size = 1000 * KIB if kind == "many" else 100 * KIB
    image = sparse_image(tmp_path / "disk.img", size, EXTENTS[kind])
    archive = tar(image, NAME)
    outcome = check_transform(unarchived, archive[:30_000], []) if kind == "no data" else unarchived([archive])
    assert outcome.output == image.read_bytes()
    assert outcome.result.sparse  # type: ignore[attr-defined] # it is a result
    assert unarchived([archive[at : at + 700] for at in range(0, len(archive), 700)]) == outcome


@pytest.mark.parametrize("version", ["0.0", "0.1", "1.0"])
@pytest.mark.parametrize("kind", EXTENTS)
def test_sparse_ones_of_gnu_tar_in_pax(kind: str, version: str, tmp_path: Path) -> None:
    """A file with holes archived by `tar --sparse --format=posix` is restored with its holes and its name."""
    size = 1000 * KIB if kind == "many" else 100 * KIB
    sparse_image(tmp_path / NAME, size, EXTENTS[kind])
    options = ["--sparse", f"--sparse-version={version}", "--format=posix"]
    archive = ask("tar", *options, "-C", str(tmp_path), "-cf", "-", NAME)
    outcome = check_transform(unarchived, archive, []) if kind == "no data" else unarchived([archive])
    assert outcome.output == (tmp_path / NAME).read_bytes()
    result = outcome.result
    assert isinstance(result, Unarchived)
    assert (result.name, result.sparse, result.image_size) == (NAME, True, size)
    assert result.data_size == sum(length for _, length in EXTENTS[kind])
    assert unarchived([archive[at : at + 700] for at in range(0, len(archive), 700)]) == outcome


def test_pax_in_the_place_of_the_header() -> None:
    """Name and size of a pax header count in place of the header's, as Python's tarfile writes them."""
    name = "im\u00e4ge" * 30
    outcome = check_transform(unarchived, python_tar((member(name), b"data"), form=tarfile.PAX_FORMAT), [])
    assert (outcome.output, outcome.result.name) == (b"data", name)  # type: ignore[attr-defined] # it is a result
    assert unarchived([pax_tar(path="elsewhere")]).result.name == "elsewhere"  # type: ignore[attr-defined] # the same
    small = changed(python_tar((member(), b"data" * 200)), 124, b"00000000000\0")
    assert unarchived([with_pax(b"12 size=800\n", small)]).output == b"data" * 200


def test_unknown_pax_headers() -> None:
    """Keys that nobody knows, and those of other programs' attributes, change nothing."""
    headers = {"GOLANG.pkg": "x", "hdrcharset": "BINARY", "MSWINDOWS.rawsd": "x", "SCHILY.dev": "5", "SELINUX.x": "y"}
    assert unarchived([pax_tar(headers, b"data")]).output == b"data"


@pytest.mark.parametrize("size", [0, 1, 511, 512, 513, 8705, 10240, 30_000])
def test_plain_ones(size: int, tmp_path: Path) -> None:
    """Archives by tar without options and by Python's tarfile (as in euca2ools) are read."""
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(range(1, 251)) * (size // 250) + b"x" * (size % 250))
    for archive in (
        tar(image, NAME, sparse=False),
        python_tar((member(), image.read_bytes())),
        python_tar((member(), image.read_bytes()), form=tarfile.USTAR_FORMAT),
        ask("tar", "--format=v7", "-C", str(tmp_path), "-cf", "-", "disk.img"),
        ask("tar", "--format=posix", "-C", str(tmp_path), "-cf", "-", "disk.img"),
    ):
        outcome = unarchived([archive])
        assert outcome.output == image.read_bytes()
        assert not outcome.result.sparse  # type: ignore[attr-defined] # it is a result


def test_more_than_octal_can_tell() -> None:
    """Offsets and sizes over 8 GiB, in base-256, are read: a large hole, and a large file that is truncated."""
    size = 20 * GIB
    extents = [Extent(offset=9 * GIB, length=512)]
    archive = sparse_headers(name=NAME, size=size, mtime=0, extents=extents) + b"x" * 512 + bytes(1024)
    unarchive = Unarchive()
    (piece,) = unarchive.feed(archive)
    assert (piece.offset, len(piece)) == (9 * GIB, 512)
    assert list(unarchive.finish()) == []
    assert (unarchive.result().image_size, unarchive.result().data_size) == (size, 512)
    plain = python_tar((member(), b""))[:512]
    large = bytearray(plain)
    large[124:136] = b"\x80" + (9 * GIB).to_bytes(11, "big")
    assert flaw_of(sealed(large) + bytes(512)) == "tar.truncated"


def test_a_long_name(tmp_path: Path) -> None:
    """A name of more than 100 characters, which GNU tar puts before the header, is read."""
    image = tmp_path / "disk.img"
    image.write_bytes(b"data")
    name = "n" * 150
    outcome = check_transform(unarchived, tar(image, name), [])
    assert (outcome.output, outcome.result.name) == (b"data", name)  # type: ignore[attr-defined] # it is a result


def test_a_very_long_name() -> None:
    """A name longer than a block is read."""
    name = "n" * 1200
    assert unarchived([python_tar((member(name), b"data"))]).result.name == name  # type: ignore[attr-defined] # as above


def test_too_many_extents(monkeypatch: pytest.MonkeyPatch) -> None:
    """A map of more extents than a volume can have is refused before it fills the memory."""
    monkeypatch.setattr(module, "MOST_EXTENTS", 3)
    extents = [Extent(offset=at * 1024, length=512) for at in range(4)]
    assert flaw_of(archived(bytes(8192), extents)) == "tar.sparse_map"
    assert unarchived([archived(bytes(8192), extents[:3])]).output == bytes(8192)


def test_harmless_pax_headers() -> None:
    """Pax headers with times, owners and labels change nothing."""
    headers = {
        "mtime": "1.5",
        "comment": "héllo",
        "uname": "röot",
        "SCHILY.xattr.user.a": "b",
        "LIBARCHIVE.creationtime": "2",
    }
    archive = python_tar((member(pax_headers=headers), b"data"), form=tarfile.PAX_FORMAT, headers={"comment": "all"})
    assert check_transform(unarchived, archive, [1000]).output == b"data"


def sealed(header: bytearray) -> bytes:
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


def changed(archive: bytes, at: int, to: bytes) -> bytes:
    """Change a header field, and its checksum."""
    header = bytearray(archive[:512])
    header[at : at + len(to)] = to
    return sealed(header) + archive[512:]


def pax_tar(headers: dict[str, str] | None = None, data: bytes = b"", **more: str) -> bytes:
    """An archive by Python's tarfile, with these records before the file."""
    made = member(pax_headers={**(headers or {}), **more})
    return python_tar((made, data), form=tarfile.PAX_FORMAT)


VERSION_1 = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "5"}
PLAIN = python_tar((member(), b"data" * 200))
SPARSE = archived(b"x" * 2048 + bytes(2048), [Extent(offset=0, length=2048)])


@pytest.mark.parametrize(
    ("archive", "code"),
    [
        (b"", "tar.empty"),
        (bytes(10240), "tar.empty"),
        (b"not a tar archive at all".ljust(1024, b"."), "tar.header"),
        (PLAIN[:100], "tar.truncated"),
        (PLAIN[:600], "tar.truncated"),
        (PLAIN[: 512 + 1024], "tar.no_end"),
        (PLAIN[: 512 + 1024 + 512], "tar.no_end"),
        (PLAIN[: 512 + 1024 + 700], "tar.truncated"),
        (PLAIN[: 512 + 1024] + b"garbage".ljust(1024, b"."), "tar.trailing"),
        (PLAIN[: 512 + 1024 + 512] + b"garbage".ljust(1024, b"."), "tar.trailing"),
        (PLAIN + b"garbage", "tar.trailing"),
        (python_tar((member(), b"one"), (member("two"), b"two")), "tar.second_member"),
        (PLAIN[:1536] + PLAIN, "tar.second_member"),
        (PLAIN[:1536] + bytes(512) + PLAIN, "tar.second_member"),
        (python_tar((member("../image"), b"")), "tar.parent_name"),
        (python_tar((member("a/../../image"), b"")), "tar.parent_name"),
        (python_tar((member(".."), b"")), "tar.parent_name"),
        (python_tar((member("/etc/passwd"), b"")), "tar.absolute_name"),
        (python_tar((member("images/image"), b"")), "tar.path"),
        (python_tar((member("d" * 120 + "/" + "f" * 90), b""), form=tarfile.USTAR_FORMAT), "tar.path"),
        (python_tar((member("/" + "d" * 150), b"")), "tar.absolute_name"),
        (changed(PLAIN, 0, bytes(100)), "tar.name"),
        (python_tar((member(type=tarfile.LNKTYPE, linkname="x"), b"")), "tar.kind"),
        (python_tar((member(type=tarfile.SYMTYPE, linkname="/etc/passwd"), b"")), "tar.kind"),
        (python_tar((member(type=tarfile.SYMTYPE, linkname="x" * 150), b"")), "tar.kind"),
        (python_tar((member(type=tarfile.CHRTYPE), b"")), "tar.kind"),
        (python_tar((member(type=tarfile.BLKTYPE), b"")), "tar.kind"),
        (python_tar((member(type=tarfile.DIRTYPE), b"")), "tar.kind"),
        (python_tar((member(type=tarfile.FIFOTYPE), b"")), "tar.kind"),
        (changed(PLAIN, 156, b"?"), "tar.kind"),
        (pax_tar(path="a/b"), "tar.path"),
        (pax_tar(path="/etc/passwd"), "tar.absolute_name"),
        (pax_tar(path="../x"), "tar.parent_name"),
        (pax_tar(path="x\0y"), "tar.pax"),
        (pax_tar(size="x"), "tar.pax"),
        (pax_tar(size="-1"), "tar.pax"),
        (pax_tar(size="100000"), "tar.truncated"),
        (pax_tar({"GNU.sparse.major": "1"}), "tar.pax"),
        (pax_tar({"GNU.sparse.name": "x"}), "tar.pax"),
        (pax_tar({"GNU.sparse.major": "2", "GNU.sparse.realsize": "5"}), "tar.pax"),
        (pax_tar({"GNU.sparse.major": "1", "GNU.sparse.minor": "1", "GNU.sparse.realsize": "5"}), "tar.pax"),
        (pax_tar({"GNU.sparse.size": "5", "GNU.sparse.map": "1"}), "tar.pax"),
        (pax_tar({"GNU.sparse.size": "5", "GNU.sparse.map": "0,,1"}), "tar.pax"),
        (pax_tar({"GNU.sparse.size": "5", "GNU.sparse.map": "0,-1"}), "tar.pax"),
        (pax_tar({"GNU.sparse.size": "5", "GNU.sparse.map": "0,6"}), "tar.sparse_map"),
        (pax_tar({"GNU.sparse.size": "4", "GNU.sparse.map": "0,5"}, b"12345"), "tar.sparse_map"),
        (pax_tar({"GNU.sparse.size": "5", "GNU.sparse.map": "3,1,0,1"}), "tar.sparse_map"),
        (pax_tar({"GNU.sparse.map": "0,5"}, b"12345"), "tar.pax"),
        (pax_tar({"GNU.sparse.size": "5", "GNU.sparse.numbytes": "5"}), "tar.pax"),
        (pax_tar(VERSION_1 | {"GNU.sparse.map": "0,5"}, b"0\n".ljust(512, b"\0")), "tar.pax"),
        (pax_tar(VERSION_1, b""), "tar.sparse_map"),
        (pax_tar(VERSION_1, b"x\n".ljust(512, b"\0")), "tar.sparse_map"),
        (pax_tar(VERSION_1, b"\n".ljust(512, b"\0")), "tar.sparse_map"),
        (pax_tar(VERSION_1, b"1" * 512), "tar.sparse_map"),
        (pax_tar(VERSION_1, b"1\n0\n".ljust(512, b"\0")), "tar.sparse_map"),
        (pax_tar(VERSION_1, b"1\n0\n6\n".ljust(512, b"\0") + b"123456"), "tar.sparse_map"),
        (pax_tar(VERSION_1, b"1\n0\n5\n".ljust(512, b"\0") + b"1234"), "tar.sparse_map"),
        (pax_tar({"SCHILY.realsize": "1"}), "tar.pax"),
        (pax_tar({"SUN.holesdata": "1"}), "tar.pax"),
        (pax_tar({"GNU.volume.size": "1"}), "tar.pax"),
        (python_tar((member(), b""), form=tarfile.PAX_FORMAT, headers={"path": "x"}), "tar.pax"),
        (python_tar((member(), b""), form=tarfile.PAX_FORMAT, headers={"size": "1"}), "tar.pax"),
        (changed(PLAIN, 124, b"77777777778\0"), "tar.header"),
        (changed(PLAIN, 124, b"\xff" * 12), "tar.header"),
        (changed(PLAIN, 124, b"\x80" + b"\xff" * 11), "tar.header"),
        (PLAIN[:120] + b"1" + PLAIN[121:], "tar.header"),
        (changed(SPARSE, 386, b"00000010000\0"), "tar.sparse_map"),
        (changed(SPARSE, 398, b"00000001000\0"), "tar.sparse_map"),
        (changed(SPARSE, 410, b"00000000000\0"), "tar.sparse_map"),
        (changed(SPARSE, 483, b"00000001000\0"), "tar.sparse_map"),
        (changed(SPARSE, 482, b"\1")[:512], "tar.truncated"),
    ],
)
def test_flaws(archive: bytes, code: str) -> None:
    """Each flaw has its own code, however the archive is cut."""
    assert flaw_of(archive) == code


def with_pax(text: bytes, rest: bytes = PLAIN) -> bytes:
    header = changed(python_tar((member(), b""))[:512], 124, b"%011o\0" % len(text))
    return changed(header, 156, b"x") + text.ljust(-(-len(text) // 512) * 512, b"\0") + rest


@pytest.mark.parametrize("text", [b"nonsense", b"99 mtime=1\n", b"11 mtime=1\n11 mtime", b"10 mtime=1", b"x mtime=1\n"])
def test_damaged_pax_headers(text: bytes) -> None:
    """A pax header that is not a list of records is refused."""
    assert flaw_of(with_pax(text)) == "tar.pax"


def test_an_empty_pax_header() -> None:
    """A pax header without records is ignored."""
    assert unarchived([with_pax(b"")]).output == b"data" * 200


def test_a_huge_pax_header_is_not_held() -> None:
    """A header before the file that would fill the memory is refused by its size."""
    assert flaw_of(changed(changed(PLAIN, 156, b"x")[:512], 124, b"00040000000\0")) == "tar.header"


def test_signed_checksums() -> None:
    """A header whose checksum is the sum of signed bytes, as in old programs, is accepted."""
    header = bytearray(python_tar((member("\u00fcmlaut"), b"data"))[:512])
    header[148:156] = b" " * 8
    signed = sum(byte - 256 if byte > 127 else byte for byte in header)
    header[148:156] = b"%06o\0 " % signed
    assert unarchived([bytes(header) + b"data".ljust(512, b"\0") + bytes(1024)]).output == b"data"


def test_pieces_are_views() -> None:
    """No data is copied: a piece is a view of the input."""
    archive = memoryview(bytearray(archived(b"x" * 5000)))
    (piece,) = Unarchive().feed(archive)
    assert piece.data.obj is archive.obj
