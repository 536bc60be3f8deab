"""Standard input as a volume: read once, with exactly the announced size."""

from __future__ import annotations

import gzip
import lzma
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from amistream.errors import RefusedError, SourceError
from amistream.ports.volume import Kind
from amistream.source.file import FileVolume
from amistream.source.opening import open_source
from amistream.source.stream import StreamVolume, open_standard_input
from amistream.stages.read import Read
from support.volumes import random_image, sparse_image

MIB = 1 << 20


@contextmanager
def sent(data: bytes, *, size: int | None = None, as_it_is: bool = False) -> Iterator[StreamVolume]:
    """A volume whose bytes a thread sends through a pipe."""
    reading, writing = os.pipe()

    def send() -> None:
        with os.fdopen(writing, "wb") as pipe:
            try:
                pipe.write(data)
            except BrokenPipeError:
                return

    sender = threading.Thread(target=send)
    sender.start()
    try:
        volume = open_standard_input(len(data) if size is None else size, reading, as_it_is=as_it_is)
        assert isinstance(volume, StreamVolume)
        with closing(volume):
            os.close(reading)
            yield volume
    finally:
        sender.join()


def read_all(volume: StreamVolume | FileVolume, block_size: int = 300_000) -> bytes:
    reader, data, last = Read(volume, volume.extents()), bytearray(), False
    while not last:
        block, last = reader.read(memoryview(bytearray(block_size)))
        data += block
    return bytes(data)


@pytest.mark.parametrize("size", [1, 511, 65_536, 3 * MIB + 17])
def test_a_stream(size: int, tmp_path: Path) -> None:
    """A stream of any size, in any pieces, is read completely and in order."""
    data = random_image(tmp_path / "image", size).read_bytes()
    with sent(data) as volume:
        assert volume.size == size
        assert read_all(volume) == data
        volume.check_unchanged()


def test_too_short() -> None:
    """A stream that ends early is an error with both sizes."""
    with sent(bytes(100_000), size=100_001) as volume, pytest.raises(SourceError) as caught:
        read_all(volume)
    assert caught.value.code == "source.shrunk"
    assert "100000" in caught.value.message
    assert "100001" in caught.value.message


def test_too_long() -> None:
    """A stream with more bytes than announced is an error after the announced ones."""
    with sent(bytes(100_001), size=100_000) as volume:
        assert read_all(volume) == bytes(100_000)
        with pytest.raises(SourceError) as caught:
            volume.check_unchanged()
    assert caught.value.code == "source.longer"


def test_not_twice() -> None:
    """A stream cannot be read again from its beginning."""
    with sent(bytes(1000)) as volume:
        read_all(volume)
        with pytest.raises(SourceError, match="cannot be read twice"):
            volume.read_into(0, memoryview(bytearray(10)))


def test_no_image_in_another_form() -> None:
    """A qcow2 image in a pipe is refused at its first block."""
    with sent(b"QFI\xfb" + bytes(100_000)) as volume, pytest.raises(SourceError) as caught:
        read_all(volume)
    assert caught.value.code == "source.stream_format"
    assert "qcow2" in caught.value.message


@pytest.mark.parametrize(
    ("packed", "line"),
    [
        (gzip.compress(bytes(5000)), "... | gzip -dc | amistream bundle -"),
        (lzma.compress(bytes(5000)), "... | xz -dc | amistream bundle -"),
        (b"PK\3\4".ljust(5000), "unzip -p FILE | amistream bundle -"),
        (b"\x7f\x45\x4c\x46".ljust(5000), "give the disk itself"),
    ],
    # gzip writes the time, and every process of the tests must have the same names.
    ids=["gzip", "xz", "zip", "elf"],
)
def test_no_disk(packed: bytes, line: str) -> None:
    """A stream that is no disk is refused at its first block with the line that works, or taken as it is."""
    with sent(packed) as volume, pytest.raises(SourceError) as caught:
        read_all(volume)
    assert caught.value.code == "source.no_disk"
    assert line in caught.value.hint
    with sent(packed, as_it_is=True) as volume:
        assert read_all(volume) == packed


@pytest.mark.parametrize("block_size", [100_000, 1000])
def test_the_footer_of_a_vhd(block_size: int) -> None:
    """A fixed-size VHD in a pipe is refused at its end, whatever the blocks; as it is, it is taken."""
    image = bytes(99_744) + b"conectix".ljust(512, b"\0")
    with sent(image) as volume, pytest.raises(SourceError) as caught:
        read_all(volume, block_size)
    assert caught.value.code == "source.stream_format"
    assert "head -c 99744 | amistream bundle - --image-size 99744" in caught.value.hint
    with sent(image, as_it_is=True) as volume:
        assert read_all(volume) == image


def test_interrupted() -> None:
    """A read that waits for the sender can be interrupted from another thread."""
    reading, writing = os.pipe()
    volume = open_standard_input(10, reading)
    assert isinstance(volume, StreamVolume)
    caught: list[BaseException] = []

    def wait() -> None:
        try:
            volume.read_into(0, memoryview(bytearray(10)))
        except SourceError as error:
            caught.append(error)

    waiting = threading.Thread(target=wait)
    waiting.start()
    volume.interrupt()
    waiting.join(30)
    assert not waiting.is_alive()
    assert [error.code for error in caught if isinstance(error, SourceError)] == ["source.interrupted"]
    volume.close()
    os.close(reading)
    os.close(writing)


def test_sizes_that_are_not_known() -> None:
    """A stream without a size is refused, with the option to give it."""
    reading, writing = os.pipe()
    with pytest.raises(RefusedError) as caught:
        open_standard_input(None, reading)
    os.close(reading)
    os.close(writing)
    assert caught.value.code == "source.size_unknown"
    assert "--image-size" in caught.value.hint


def test_nothing_is_sent() -> None:
    """A terminal, a null device or no standard input at all is refused."""
    null = os.open(os.devnull, os.O_RDONLY)
    with pytest.raises(RefusedError, match="nothing is sent"):
        open_standard_input(10, null)
    os.close(null)
    with pytest.raises(RefusedError, match="nothing is sent"):
        open_standard_input(10, null)


def test_a_socket() -> None:
    """A socket, as ssh and inetd give, is read as a stream."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(b"x" * 1000)
        ours.shutdown(socket.SHUT_WR)
        with closing(open_standard_input(1000, theirs.fileno())) as volume:
            assert isinstance(volume, StreamVolume)
            assert read_all(volume) == b"x" * 1000
            volume.check_unchanged()


def test_a_file_is_no_stream(tmp_path: Path) -> None:
    """A redirected file is read as a file, with its size and holes."""
    path = sparse_image(tmp_path / "image", 3 * MIB, [(MIB, 5000)])
    with path.open("rb") as file, closing(open_standard_input(None, file.fileno())) as volume:
        assert isinstance(volume, FileVolume)
        assert (volume.kind, volume.size) == (Kind.IMAGE_FILE, 3 * MIB)
        assert sum(extent.length for extent in volume.extents()) < MIB
        file.seek(0, os.SEEK_END)
    with path.open("rb") as file:
        file.seek(512)
        with pytest.raises(RefusedError, match="read already"):
            open_standard_input(None, file.fileno())


def test_as_a_source(tmp_path: Path) -> None:
    """The source `-` is standard input, redirected or not, and its size is checked."""
    path = random_image(tmp_path / "image", 5000)
    code = (
        "import sys; from amistream.source.opening import open_source; from amistream.errors import RefusedError\n"
        "try: print(type(open_source('-', image_size=int(sys.argv[1]))).__name__)\n"
        "except RefusedError as error: print(error.code, error.hint)"
    )

    def ask(size: int, **options: object) -> str:
        words = [sys.executable, "-c", code, str(size)]
        return subprocess.run(words, capture_output=True, text=True, check=True, **options).stdout.strip()  # type: ignore[call-overload, no-any-return]

    with path.open() as file:
        assert ask(5000, stdin=file) == "FileVolume"
    with path.open() as file:
        assert ask(5001, stdin=file).startswith("source.size ")
    assert ask(5000, input="x") == "StreamVolume"
    assert ask(5000, stdin=subprocess.DEVNULL).startswith("source.no_stream ")
    path.write_bytes(gzip.compress(b"disk"))
    with path.open() as file:
        assert ask(5000, stdin=file).startswith("source.no_disk unpack it on the way: ... | gzip -dc | ")


def test_confined(tmp_path: Path) -> None:
    """A job confined to roots cannot read this process's standard input."""
    from amistream.roots import Roots

    with pytest.raises(RefusedError) as caught:
        open_source("-", Roots([tmp_path]), image_size=10)
    assert caught.value.code == "roots.outside"
