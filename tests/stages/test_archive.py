"""Archive: byte for byte the output of GNU tar, in whatever cuts the volume arrives."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amistream.stages.archive import Archive, member_header
from amistream.values import GIB, LONGEST_PREFIX, ArchiveResult, Buffer, ChangedError, Extent
from stages.transform_check import Outcome, ask, carry, check_transform, cut_data

MTIME = 1_700_000_000
# The header, the data's padding, two zero blocks and the record's padding each begin at one of these.
SIZES = sorted({0, 1, *(edge + near for edge in (512, 8704, 9216, 10240, 18944, 20480) for near in (-1, 0, 1))})


def archived(pieces: Sequence[Buffer]) -> Outcome:
    archive = Archive(name="image", size=sum(map(len, pieces)), mtime=MTIME)
    return Outcome(carry(archive, pieces), archive.result())


def tar_command(path: Path, *, mtime: int = MTIME) -> list[str]:
    owner = ["--owner=root:0", "--group=root:0", "--mode=0644", f"--mtime=@{mtime}"]
    return ["tar", "--format=gnu", *owner, "-C", str(path.parent), "-cf", "-", path.name]


def tar_header(path: Path, *, mtime: int = MTIME) -> bytes:
    """Read the first block of GNU tar's output, and end it before it reads the file."""
    with subprocess.Popen(tar_command(path, mtime=mtime), stdout=subprocess.PIPE) as tar:
        assert tar.stdout is not None
        header = tar.stdout.read(512)
        tar.kill()
    return header


@settings(deadline=None)
@given(cut_data())
def test_cuts(data_and_cuts: tuple[bytes, list[int]]) -> None:
    """Any cuts of the volume give the same archive, size and SHA-1."""
    data, cuts = data_and_cuts
    outcome = check_transform(archived, data, cuts)
    assert outcome.output[512:].startswith(data)
    assert outcome.result == archived([]).result if not data else True


@pytest.mark.parametrize("size", SIZES)
def test_same_as_gnu_tar(size: int, tmp_path: Path) -> None:
    """The archive of a volume of any size equals GNU tar's, byte for byte."""
    path = tmp_path / "image"
    path.write_bytes(os.urandom(size))
    outcome = archived([path.read_bytes()])
    assert outcome.output == ask(*tar_command(path))


@pytest.mark.parametrize("size", [0, 1, 512, 8705, 10240])
def test_read_by_gnu_tar(size: int) -> None:
    """GNU tar lists one member, root's and of the volume's size, and extracts the volume."""
    data = os.urandom(size)
    archive = archived([data]).output
    listing = ask("tar", "--utc", "--full-time", "-tvf", "-", given=archive).decode().splitlines()
    assert [line.split() for line in listing] == [
        ["-rw-r--r--", "root/root", str(size), "2023-11-14", "22:13:20", "image"]
    ]
    assert ask("tar", "-xOf", "-", given=archive) == data


@pytest.mark.parametrize("size", [0, 1, 512, 8705, 10240])
def test_read_by_python(size: int) -> None:
    """Python's tarfile, which OpenStack's importer uses for streams, extracts the volume."""
    data = os.urandom(size)
    with tarfile.open(fileobj=io.BytesIO(archived([data]).output), mode="r|") as archive:
        member = archive.next()
        assert member is not None
        content = archive.extractfile(member)
        assert content is not None
        assert content.read() == data
        assert archive.next() is None


def test_digest() -> None:
    """The result is the size and SHA-1 of the whole output, as openssl computes it."""
    archive = Archive(name="image", size=3, mtime=MTIME)
    output = carry(archive, [b"abc"])
    result = archive.result()
    assert ask("openssl", "sha1", "-r", given=output).split()[0].decode() == result.sha1.hex()
    assert result.size == len(output) == 10240


def test_nothing_copied() -> None:
    """Payload is yielded as the same object."""
    archive = Archive(name="image", size=8, mtime=MTIME)
    first, second = bytearray(b"1234"), memoryview(b"5678")
    header, payload = archive.feed(first)
    assert len(header) == 512
    assert payload is first
    (payload,) = archive.feed(second)
    assert payload is second


@pytest.mark.parametrize("size", [8 * GIB - 1, 8 * GIB, 9 * GIB], ids=["8 GiB - 1", "8 GiB", "9 GiB"])
def test_large_header(size: int, tmp_path: Path) -> None:
    """Sizes up to 8 GiB - 1 are octal, larger ones base-256, as in GNU tar's header."""
    path = tmp_path / "image"
    with path.open("wb") as file:
        file.truncate(size)
    header = member_header(name="image", size=size, mtime=MTIME)
    theirs = tar_header(path)
    assert header == theirs
    ours = tarfile.TarInfo.frombuf(header, "utf-8", "strict")
    assert ours.get_info() == tarfile.TarInfo.frombuf(theirs, "utf-8", "strict").get_info()
    assert (ours.size, ours.name, ours.isreg()) == (size, "image", True)


@pytest.mark.parametrize(
    ("name", "mtime"),
    [("a", 0), ("n" * LONGEST_PREFIX, 2**31), ("root disk.img", 8**11 - 1), ("-x", 8**11), ("imagé", 0)],
)
def test_header_fields(name: str, mtime: int, tmp_path: Path) -> None:
    """The header has name and time as GNU tar writes them, up to the largest that fit."""
    path = tmp_path / name
    path.touch()
    header = member_header(name=name, size=0, mtime=mtime)
    argv = tar_command(path, mtime=mtime)
    assert header == ask(*argv[:-1], "--", argv[-1])[:512]


@settings(deadline=None)
@given(size=st.integers(0, 2**80), mtime=st.integers(0, 2**33))
def test_any_header(size: int, mtime: int) -> None:
    """Any size and time can be read back from the header, whose checksum is valid."""
    member = tarfile.TarInfo.frombuf(member_header(name="image", size=size, mtime=mtime), "utf-8", "strict")
    assert (member.size, member.mtime, member.mode, member.uid, member.gid) == (size, mtime, 0o644, 0, 0)


@settings(deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=20), min_size=1), st.integers(1, 30))
def test_too_much(pieces: list[bytes], excess: int) -> None:
    """Too many bytes are an error with their number, and none of them is yielded."""
    size = max(0, sum(map(len, pieces)) - excess)
    over = sum(map(len, pieces)) - size
    archive = Archive(name="image", size=size, mtime=MTIME)
    made = bytearray()

    def feed_all() -> None:
        for piece in pieces:
            for output in archive.feed(piece):
                made.extend(output)

    with pytest.raises(ValueError, match="bytes more than the archive's header says"):
        feed_all()
    assert len(made) <= 512 + size
    archive = Archive(name="image", size=size, mtime=MTIME)
    with pytest.raises(ValueError, match=f"^{over} bytes more than"):
        list(archive.feed(b"".join(pieces)))


@pytest.mark.parametrize("pieces", [[], [b"12345"]], ids=["nothing", "half"])
def test_too_little(pieces: Iterable[bytes]) -> None:
    """Too few bytes are an error with the missing number."""
    archive = Archive(name="image", size=10, mtime=MTIME)
    with pytest.raises(ValueError, match=f"^{10 - sum(map(len, pieces))} bytes fewer than the archive's header says"):
        carry(archive, pieces)


@pytest.mark.parametrize("name", ["", "a/b", "/", "n" * (LONGEST_PREFIX + 1), "é" * 50, "\udcff", "a\0b", "a\nb"])
def test_bad_name(name: str) -> None:
    """A name that readers could misread is refused."""
    with pytest.raises(ValueError, match="a member's name is printable"):
        Archive(name=name, size=1, mtime=MTIME)


@pytest.mark.parametrize(("size", "mtime"), [(-1, 0), (0, -1)])
def test_negative_number(size: int, mtime: int) -> None:
    """Negative sizes and times are refused."""
    with pytest.raises(ValueError, match="no negative number"):
        Archive(name="image", size=size, mtime=mtime)


def test_volume_of_zeros() -> None:
    """The digest of a known volume has not changed."""
    archive = Archive(name="image", size=1024, mtime=0)
    output = carry(archive, [bytes(1024)])
    assert archive.result().sha1 == hashlib.sha1(output).digest()
    assert set(output[512:]) == {0}


BLOCKS = st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=8)


def ends(blocks: Sequence[bytes]) -> list[ArchiveResult]:
    """The archive's state after each of the blocks."""
    archive = Archive(name="image", size=sum(map(len, blocks)), mtime=MTIME)
    found = []
    for number, block in enumerate(blocks):
        list(archive.feed(block))
        found.append(archive.end_of_block(number))
    return found


def feed_with_proof(blocks: Sequence[bytes], proof: ArchiveResult) -> int:
    """Archive the blocks again; returns the number of blocks before a change was found."""
    archive = Archive(name="image", size=sum(map(len, blocks)), mtime=MTIME, proof=proof)
    for number, block in enumerate(blocks):
        try:
            list(archive.feed(block))
        except ChangedError:
            return number
    return len(blocks)


@settings(deadline=None)
@given(BLOCKS)
def test_end_of_each_block(blocks: list[bytes]) -> None:
    """The state at the end of each block is the size and SHA-1 of the archive so far."""
    whole = archived(blocks).output
    size = 512
    for block, end in zip(blocks, ends(blocks), strict=True):
        size += len(block)
        assert end == ArchiveResult(size=size, sha1=hashlib.sha1(whole[:size]).digest())


def test_ends_may_be_asked_late() -> None:
    """States are kept until that of a later block is requested."""
    archive = Archive(name="image", size=3, mtime=MTIME)
    for block in (b"a", b"b", b"c"):
        list(archive.feed(block))
    assert [archive.end_of_block(number) for number in (1, 1, 2)] == [
        *ends([b"a", b"b", b"c"])[1:2] * 2,
        archive.result(),
    ]
    with pytest.raises(KeyError):
        archive.end_of_block(1)


@settings(deadline=None)
@given(BLOCKS, st.data())
def test_same_volume_is_proved(blocks: list[bytes], data: st.DataObject) -> None:
    """The same bytes pass the proof of any block, whatever follows it."""
    at = data.draw(st.integers(0, len(blocks) - 1))
    later = [data.draw(st.binary(min_size=len(block), max_size=len(block))) for block in blocks[at + 1 :]]
    assert feed_with_proof([*blocks[: at + 1], *later], ends(blocks)[at]) == len(blocks)


@settings(deadline=None)
@given(BLOCKS, st.data())
def test_another_byte_fails_the_proof(blocks: list[bytes], data: st.DataObject) -> None:
    """A changed byte before the proof is found at the proof's block, which is not yielded."""
    at = data.draw(st.integers(0, len(blocks) - 1))
    block = data.draw(st.integers(0, at))
    place = data.draw(st.integers(0, len(blocks[block]) - 1))
    other = bytearray(blocks[block])
    other[place] ^= data.draw(st.integers(1, 255))
    assert feed_with_proof([*blocks[:block], bytes(other), *blocks[block + 1 :]], ends(blocks)[at]) == at


def test_other_cuts_fail_the_proof() -> None:
    """The same bytes in other blocks fail the proof: parts ended elsewhere in them."""
    assert feed_with_proof([b"abc", b"d"], ends([b"ab", b"cd"])[0]) == 0


def test_an_end_before_the_proof_fails_it() -> None:
    """An archive that ends before the place of the proof fails it."""
    archive = Archive(name="image", size=2, mtime=MTIME, proof=ends([b"ab", b"cd"])[1])
    list(archive.feed(b"ab"))
    with pytest.raises(ChangedError, match="ends before byte 516"):
        list(archive.finish())


@pytest.mark.parametrize("change", ["name", "mtime", "extents"])
def test_another_header_fails_the_proof(change: str) -> None:
    """The proof covers the header: another name, time or map of holes fails it."""
    extents = (Extent(offset=0, length=512),)
    figures = {"name": "image", "size": 1024, "mtime": MTIME, "extents": extents}
    first = Archive(**figures)  # type: ignore[arg-type]  # mixed values of one parametrised change
    list(first.feed(bytes(512)))
    figures[change] = {"name": "other", "mtime": MTIME + 1, "extents": (Extent(offset=512, length=512),)}[change]
    second = Archive(**figures, proof=first.end_of_block(0))  # type: ignore[arg-type]  # as above
    with pytest.raises(ChangedError):
        list(second.feed(bytes(512)))


@pytest.fixture
def _threads_change_often() -> Iterator[None]:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("_threads_change_often")
def test_ends_are_asked_for_while_others_are_made() -> None:
    """States may be requested on one thread while another feeds blocks."""
    count = 20_000
    archive = Archive(name="image", size=count, mtime=MTIME)
    list(archive.feed(b"x"))

    def feed_all() -> None:
        for _ in range(count - 1):
            list(archive.feed(b"x"))

    thread = threading.Thread(target=feed_all)
    thread.start()
    try:
        while thread.is_alive():
            archive.end_of_block(0)
    finally:
        thread.join()
    assert archive.end_of_block(count - 1) == archive.result()
