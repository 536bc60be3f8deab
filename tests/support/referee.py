"""Checks with the real programs that EC2 and the older tools can read a bundle.

`openssl`, `gzip`, `tar` and `cmp` do the work, through pipes, so that the size of the image costs no memory;
of Python only the XML parser and `tarfile` have a say, because an importer uses the latter. Nothing here
imports amistream. `check_bundle` asks everything of our own form; `check_content`, `check_parts` and
`check_signature` hold for the bundles of other tools too.
"""

from __future__ import annotations

import os
import re
import subprocess
import tarfile
import tempfile
import zlib
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast

from lxml import etree

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

PIECE = 1 << 20
HEX = "[0-9a-f]+"


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part as the manifest lists it, in the manifest's order."""

    index: int
    path: Path
    sha1: str


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """The content of a manifest, with the user's key and IV unwrapped."""

    manifest: bytes
    directory: Path
    name: str
    account: str
    architecture: str
    image_size: int
    bundled_size: int
    tar_sha1: str
    parts: tuple[Part, ...]
    signature: bytes
    aes_key: str
    aes_iv: str

    @property
    def signed(self) -> bytes:
        """The bytes under the signature, as they stand in the file."""
        pieces = (
            re.search(rb"<%s>.*</%s>" % (tag, tag), self.manifest, re.DOTALL)
            for tag in (b"machine_configuration", b"image")
        )
        return b"".join(found[0] for found in pieces if found)


def check_bundle(directory: Path, image: Path, user_key: Path, user_certificate: Path) -> Bundle:
    """Assert that the one bundle in `directory` is well made in every way and holds `image`."""
    bundle = read_bundle(directory, user_key)
    check_form(bundle.manifest)
    check_part_names(bundle)
    check_parts(bundle)
    check_content(bundle, image)
    check_signature(bundle, user_certificate)
    return bundle


def read_bundle(directory: Path, user_key: Path) -> Bundle:
    """Read the one manifest in `directory`, and unwrap the user's key and IV with `openssl pkeyutl`."""
    (path,) = directory.glob("*.manifest.xml")
    manifest = path.read_bytes()
    root = etree.fromstring(manifest)

    def text(where: str) -> str:
        found = root.findtext(where)
        assert found, f"{where} is missing or empty in {path.name}"
        return found

    assert text("version") == "2007-10-10"
    elements = root.findall("image/parts/part")
    parts = tuple(
        Part(
            index=int(each.get("index", "-1")),
            path=directory / (each.findtext("filename") or ""),
            sha1=each.findtext("digest") or "",
        )
        for each in elements
    )
    assert root.xpath("string(image/parts/@count)") == str(len(parts))
    return Bundle(
        manifest=manifest,
        directory=directory,
        name=text("image/name"),
        account=text("image/user"),
        architecture=text("machine_configuration/architecture"),
        image_size=int(text("image/size")),
        bundled_size=int(text("image/bundled_size")),
        tar_sha1=text("image/digest"),
        parts=parts,
        signature=bytes.fromhex(text("signature")),
        aes_key=unwrap(bytes.fromhex(text("image/user_encrypted_key")), user_key),
        aes_iv=unwrap(bytes.fromhex(text("image/user_encrypted_iv")), user_key),
    )


def unwrap(wrapped: bytes, key: Path) -> str:
    """Decrypt one RSA-wrapped secret and return its 32 hex digits."""
    # Rejection must be an error: OpenSSL answers random bytes to wrong padding by default.
    padding = ["-pkeyopt", "rsa_padding_mode:pkcs1"]
    plain = _output(["openssl", "pkeyutl", "-decrypt", "-inkey", str(key), *padding], wrapped)
    assert re.fullmatch(rb"[0-9a-f]{32}", plain), "a wrapped secret is not 32 lower-case hex digits"
    return plain.decode()


def check_form(manifest: bytes) -> None:
    """Assert the very form Amazon's tool writes: what its own check reads back byte by byte."""
    assert manifest.startswith(b"<?xml version='1.0'?><manifest><version>"), manifest[:60]
    assert manifest.endswith(b"</signature></manifest>"), manifest[-60:]
    text = manifest.decode("utf-8")
    assert not re.search(r">\s+<", text), "white space between elements"
    assert "\r" not in text
    assert "<machine_configuration>" in text
    assert "<image>" in text
    for tag in re.findall(r"<([^?/][^>]*)>", text):
        assert re.fullmatch(r"[a-z0-9_]+( [a-z]+='[^'\"<>&]*')*", tag), f"<{tag}>"
        names = re.findall(r" ([a-z]+)=", tag)
        assert names == sorted(names), f"<{tag}>"
    assert not re.search(r"<([a-z0-9_]+)[^>]*></\1>", text), "an empty element"
    assert re.fullmatch(ELEMENTS, _outline(manifest)), _outline(manifest)


#: The elements in document order, each closing as ")": what may be left out is marked, nothing else is.
ELEMENTS = re.compile(
    re.sub(
        r"\s+",
        "",
        r"""
    manifest\(version\(\)bundler\(name\(\)version\(\)release\(\)\)
      machine_configuration\(architecture\(\)
        (block_device_mapping\((mapping\(virtual\(\)device\(\)\))+\))?
        (kernel_id\(\))?(ramdisk_id\(\))?(product_codes\((product_code\(\))+\))?\)
      image\(name\(\)user\(\)type\(\)(kernel_name\(\))?(ancestry\((ancestor_ami_id\(\))+\))?
        digest\(algorithm=SHA1\)size\(\)bundled_size\(\)
        ec2_encrypted_key\(algorithm=AES-128-CBC\)user_encrypted_key\(algorithm=AES-128-CBC\)
        ec2_encrypted_iv\(\)user_encrypted_iv\(\)
        parts\(count=\d+(part\(index=\d+filename\(\)digest\(algorithm=SHA1\)\))+\)\)
      signature\(\)\)
    """,
    )
)


def _outline(manifest: bytes) -> str:
    def outline(element: etree._Element) -> str:
        items = cast("Mapping[str, str]", element.attrib).items()
        attributes = "".join(f"{name}={value}" for name, value in items)
        return f"{element.tag}({attributes}{''.join(outline(each) for each in element)})"

    return outline(etree.fromstring(manifest))


def check_part_names(bundle: Bundle) -> None:
    """Assert that parts are PREFIX.part.00 and so on, all of one size but the last, and nothing else is there."""
    expected = [f"{bundle.name}.part.{index:02d}" for index in range(len(bundle.parts))]
    assert [part.path.name for part in bundle.parts] == expected
    assert [part.index for part in bundle.parts] == list(range(len(bundle.parts)))
    found = {path.name for path in bundle.directory.iterdir()}
    assert found == {*expected, f"{bundle.name}.manifest.xml"}
    sizes = [part.path.stat().st_size for part in bundle.parts]
    assert len(set(sizes[:-1])) <= 1, f"parts of different sizes: {sizes}"
    assert 0 < sizes[-1] <= sizes[0], f"the last part is {sizes[-1]} bytes"


def check_parts(bundle: Bundle) -> None:
    """Assert digest, number and sum of sizes of the parts."""
    assert bundle.parts, "no parts"
    assert sum(part.path.stat().st_size for part in bundle.parts) == bundle.bundled_size
    # One start of openssl for all: some bundles have hundreds.
    lines = _output(["openssl", "sha1", "-r", *(str(part.path) for part in bundle.parts)]).decode().splitlines()
    for part, line in zip(bundle.parts, lines, strict=True):
        assert re.fullmatch(HEX, part.sha1)
        assert line == f"{part.sha1} *{part.path}"


UNPACK = '{ tee >(openssl sha1 -r >&3) | tar --numeric-owner -xvvOf - 2>&3 | cmp - "$1" >&2; } 3>&1'
"""Prints the digest of a tar archive and its listing, and compares its content, in one pass."""
LARGE = 2**33
"""The size from which an image is unpacked with its holes: as a stream they would take a minute."""
UNPACK_LARGE = '{ tee >(openssl sha1 -r >&3) | tar --numeric-owner -xvvf - -C "$1" >&3; } 3>&1'
"""Prints the same, and unpacks the content into a directory."""


def check_content(bundle: Bundle, image: Path) -> None:
    """Assert that the parts decrypt, decompress and unpack, for every reader, to exactly `image`."""
    assert _size(image) == bundle.image_size
    check_one_gzip_member(bundle)
    unpack = _unpack_large if bundle.image_size >= LARGE else _unpack
    with decrypted(bundle) as stream, _piped(["gzip", "-dc"], stream) as tar:
        shown = unpack(tar, image).decode()
    # tar writes its line in pieces, between which openssl may write the whole of its own.
    (line,) = re.finditer(r"([0-9a-f]{40}) \*\S+\n", shown)
    digest, listing = line[1], (shown[: line.start()] + shown[line.end() :]).removesuffix("\n")
    assert digest == bundle.tar_sha1, "SHA-1 of the tar archive"
    assert listing.split(maxsplit=5)[-1] == bundle.name, listing
    assert " 0/0 " in listing, listing
    check_python_reads(bundle, image)


def _unpack(tar: IO[bytes], image: Path) -> bytes:
    return _consume(["bash", "-o", "pipefail", "-c", UNPACK, "bash", str(image)], tar)


def _unpack_large(tar: IO[bytes], image: Path) -> bytes:
    with tempfile.TemporaryDirectory() as name:
        shown = _consume(["bash", "-o", "pipefail", "-c", UNPACK_LARGE, "bash", name], tar)
        (unpacked,) = Path(name).iterdir()
        with unpacked.open("rb") as ours, image.open("rb") as theirs:
            assert ours.seek(0, os.SEEK_END) == theirs.seek(0, os.SEEK_END)
            # What is a hole in both reads as zeros in both.
            for start, end in (*_data(ours), *_data(theirs)):
                ours.seek(start)
                theirs.seek(start)
                assert ours.read(end - start) == theirs.read(end - start), f"differs between {start} and {end}"
    return shown


def _data(file: IO[bytes]) -> Iterator[tuple[int, int]]:
    """Give the ranges of a file that are no holes."""
    end = 0
    with suppress(OSError):  # no data after the last hole
        while True:
            start = os.lseek(file.fileno(), end, os.SEEK_DATA)
            end = os.lseek(file.fileno(), start, os.SEEK_HOLE)
            yield start, end


def check_one_gzip_member(bundle: Bundle) -> None:
    """Assert that the stream is one plain gzip member, because some readers stop after the first."""
    with decrypted(bundle) as stream:
        member = zlib.decompressobj(16 + zlib.MAX_WBITS)
        first = piece = stream.read(PIECE)
        assert first[:3] == b"\x1f\x8b\x08", first[:10]
        assert not first[3] & 4, "a gzip header with an extra field"
        while piece:
            while piece and not member.eof:
                member.decompress(piece, PIECE)
                piece = member.unconsumed_tail
            assert not (member.eof and (member.unused_data or piece)), "bytes after the gzip member"
            piece = stream.read(PIECE)
        assert member.eof, "the gzip member does not end"


def check_python_reads(bundle: Bundle, image: Path) -> None:
    """Assert that Python's `tarfile`, which OpenStack's importer uses, reads the same."""
    with decrypted(bundle) as stream, tarfile.open(fileobj=stream, mode="r|gz") as archive:
        member = archive.next()
        assert member is not None
        assert (member.name, member.size, member.uid, member.gid) == (bundle.name, bundle.image_size, 0, 0)
        if bundle.image_size < LARGE:  # larger ones differ by their header, and Python takes long
            content = archive.extractfile(member)
            assert content is not None
            with content, image.open("rb") as expected:
                while piece := expected.read(PIECE):
                    assert content.read(len(piece)) == piece, f"differs before offset {expected.tell()}"
                assert not content.read(1)
            assert archive.next() is None, "a second member"
        # The rest must be there for the decrypting end to close in good order.
        while stream.read(PIECE):
            pass


def check_signature(bundle: Bundle, certificate: Path) -> None:
    """Assert that `openssl dgst` verifies the signature over the bytes as they stand."""
    with tempfile.TemporaryDirectory() as name:
        public, signature = Path(name) / "public.pem", Path(name) / "signature"
        public.write_bytes(_output(["openssl", "x509", "-in", str(certificate), "-noout", "-pubkey"]))
        signature.write_bytes(bundle.signature)
        argv = ["openssl", "dgst", "-sha1", "-verify", str(public), "-signature", str(signature)]
        assert _output(argv, bundle.signed) == b"Verified OK\n"


@contextmanager
def decrypted(bundle: Bundle) -> Iterator[IO[bytes]]:
    """Open the gzip stream: the parts in the manifest's order, decrypted by `openssl enc`."""
    paths = [str(part.path) for part in bundle.parts]
    openssl = ["openssl", "enc", "-d", "-aes-128-cbc", "-K", bundle.aes_key, "-iv", bundle.aes_iv]
    with _piped(["cat", *paths], None) as parts, _piped(openssl, parts) as stream:
        yield stream


@contextmanager
def _piped(argv: Sequence[str], source: IO[bytes] | None) -> Iterator[IO[bytes]]:
    """Run one program of a pipeline and give its output; it must end well once that has been read."""
    process = subprocess.Popen(argv, stdin=source or subprocess.DEVNULL, stdout=subprocess.PIPE)
    if source is not None:
        # Held here too, it would keep the program before from seeing that its reader is gone.
        source.close()
    assert process.stdout is not None
    try:
        yield process.stdout
        process.stdout.close()
        assert process.wait() == 0, f"{argv[:3]} ended with status {process.returncode}"
    finally:
        process.stdout.close()
        process.kill()
        process.wait()


def _consume(argv: Sequence[str], source: IO[bytes]) -> bytes:
    """Run the last program of a pipeline and return its output."""
    with _piped(argv, source) as output:
        return output.read()


def _output(argv: Sequence[str], source: bytes = b"") -> bytes:
    done = subprocess.run(argv, input=source, capture_output=True, check=False)
    assert done.returncode == 0, f"{argv[:3]}: {done.stderr.decode()}"
    return done.stdout


def _size(image: Path) -> int:
    """Return the size of a file or of a block device."""
    with image.open("rb") as file:
        return file.seek(0, os.SEEK_END)
