"""Manifest: the exact text, and a signature that every kind of check verifies."""

from __future__ import annotations

import hashlib
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING
from xml.parsers import expat

import pytest
from lxml import etree

from amistream import __version__
from amistream.keys import load_identity
from amistream.stages.manifest import ImageFacts, WrappedKeys, serialise, signed_size, write_manifest
from amistream.values import ArchiveResult, GzipResult, Measured, PartDigest, SplitResult
from stages.transform_check import ask

if TYPE_CHECKING:
    from support.keys import KeyPair, KeyRing

KEYS = WrappedKeys(ec2_key=b"\x01\xab", ec2_iv=b"\x02\xcd", user_key=b"\x03\xef", user_iv=b"\x04\x0a")
SMALL = ImageFacts(prefix="image", user="123456789012", architecture="x86_64")
FULL = ImageFacts(
    prefix="image",
    user="123456789012",
    architecture="i386",
    kernel="aki-1",
    ramdisk="ari-2",
    product_codes=("774F4FF8", "B&<>'\""),
    ancestors=("ami-1", "ami-2"),
    block_device_mappings={"root": "/dev/sda1", "ami": "sda1", "ephemeral0": "sdb", "swap": "sda3"},
)


def measure(parts: int, *, last: int = 7) -> Measured:
    sizes = [1024] * (parts - 1) + [last]
    digests = tuple(
        PartDigest(index=index, size=size, sha1=hashlib.sha1(b"%d" % index).digest())
        for index, size in enumerate(sizes)
    )
    return Measured(
        image_size=4096,
        archive=ArchiveResult(size=10240, sha1=hashlib.sha1(b"tar").digest()),
        gzip=GzipResult(crc32=1, size_in=10240, size_out=1000),
        split=SplitResult(parts=digests, bundled_size=sum(sizes)),
    )


class Signer:
    """Signs with "S" and keeps the signed bytes."""

    def __init__(self) -> None:
        self.signed = b""

    def __call__(self, data: bytes) -> bytes:
        self.signed = data
        return b"S"


def make(facts: ImageFacts, parts: int = 1, keys: WrappedKeys = KEYS) -> tuple[bytes, bytes]:
    """Return the manifest and the bytes that were signed."""
    signer = Signer()
    return write_manifest(facts, measure(parts), keys, signer), signer.signed


MACHINE = "<machine_configuration><architecture>x86_64</architecture></machine_configuration>"
IMAGE = (
    "<image><name>image</name><user>123456789012</user><type>machine</type>"
    "<digest algorithm='SHA1'>680254bad1d7ca0d65ec46aaa315d363abf6a50a</digest>"
    "<size>4096</size><bundled_size>1031</bundled_size>"
    "<ec2_encrypted_key algorithm='AES-128-CBC'>01ab</ec2_encrypted_key>"
    "<user_encrypted_key algorithm='AES-128-CBC'>03ef</user_encrypted_key>"
    "<ec2_encrypted_iv>02cd</ec2_encrypted_iv>"
    "<user_encrypted_iv>040a</user_encrypted_iv>"
    "<parts count='2'>"
    "<part index='0'><filename>image.part.00</filename>"
    "<digest algorithm='SHA1'>b6589fc6ab0dc82cf12099d1c2d40ab994e8410c</digest></part>"
    "<part index='1'><filename>image.part.01</filename>"
    "<digest algorithm='SHA1'>356a192b7913b04c54574d18c28d46e6395428ab</digest></part>"
    "</parts></image>"
)


def test_exact_text() -> None:
    """A small bundle's manifest is this exact text, and machine and image are signed."""
    manifest, signed = make(SMALL, parts=2)
    version, release = __version__.rsplit(".", 1)
    assert manifest.decode("ascii") == (
        "<?xml version='1.0'?><manifest><version>2007-10-10</version>"
        f"<bundler><name>amistream</name><version>{version}</version><release>{release}</release></bundler>"
        f"{MACHINE}{IMAGE}<signature>53</signature></manifest>"
    )
    assert signed.decode("ascii") == MACHINE + IMAGE


def test_optional_elements() -> None:
    """Mappings (sorted), kernel, ramdisk, product codes and ancestry are where readers expect them."""
    text = make(FULL)[0].decode("ascii")
    machine = text[text.index("<machine_configuration>") : text.index("<image>")]
    assert machine == (
        "<machine_configuration><architecture>i386</architecture><block_device_mapping>"
        "<mapping><virtual>ami</virtual><device>sda1</device></mapping>"
        "<mapping><virtual>ephemeral0</virtual><device>sdb</device></mapping>"
        "<mapping><virtual>root</virtual><device>/dev/sda1</device></mapping>"
        "<mapping><virtual>swap</virtual><device>sda3</device></mapping></block_device_mapping>"
        "<kernel_id>aki-1</kernel_id><ramdisk_id>ari-2</ramdisk_id><product_codes>"
        "<product_code>774F4FF8</product_code><product_code>B&amp;&lt;&gt;&apos;&quot;</product_code>"
        "</product_codes></machine_configuration>"
    )
    assert (
        "<type>machine</type><ancestry><ancestor_ami_id>ami-1</ancestor_ami_id>"
        "<ancestor_ami_id>ami-2</ancestor_ami_id></ancestry><digest "
    ) in text


@pytest.mark.parametrize(
    ("facts", "absent"),
    [
        (SMALL, ["block_device_mapping", "kernel_id", "ramdisk_id", "product_codes", "ancestry", "kernel_name"]),
        (FULL, ["kernel_name"]),
    ],
    ids=["small", "full"],
)
def test_nothing_empty(facts: ImageFacts, absent: list[str]) -> None:
    """Empty values are left out, so no element of the manifest is empty."""
    root = etree.fromstring(make(facts)[0])
    for element in root.iter():
        assert (element.text is not None) != (len(element) > 0), element.tag
    for tag in absent:
        assert root.find(f".//{tag}") is None


def test_parsed_back() -> None:
    """An XML parser reads every value back, including entities and part numbers past 99."""
    root = etree.fromstring(make(FULL, parts=102)[0])
    assert [each.text for each in root.iter("product_code")] == list(FULL.product_codes)
    assert [each.text for each in root.iter("ancestor_ami_id")] == list(FULL.ancestors)
    assert {each.findtext("virtual"): each.findtext("device") for each in root.iter("mapping")} == dict(
        FULL.block_device_mappings
    )
    parts = root.findall("image/parts/part")
    assert root.xpath("string(image/parts/@count)") == "102"
    assert [part.get("index") for part in parts] == [str(index) for index in range(102)]
    assert [part.findtext("filename") for part in parts[8:11]] == ["image.part.08", "image.part.09", "image.part.10"]
    assert [part.findtext("filename") for part in parts[99:]] == ["image.part.99", "image.part.100", "image.part.101"]
    assert [part.findtext("digest") for part in parts] == [
        hashlib.sha1(str(index).encode()).hexdigest() for index in range(102)
    ]


def test_non_ascii() -> None:
    """Text beyond ASCII is written as references, and reads back the same."""
    facts = ImageFacts(prefix="image", user="1", architecture="x86_64", product_codes=("caf\u00e9 \u2603 \U0001f600",))
    manifest, _ = make(facts)
    assert "<product_code>caf&#233; &#9731; &#128512;</product_code>" in manifest.decode("ascii")
    assert etree.fromstring(manifest).findtext(".//product_code") == "caf\u00e9 \u2603 \U0001f600"


def test_attribute_order() -> None:
    """Attributes are in alphabetical order, single-quoted, with quotes and markup as entities."""
    element = etree.Element("e", {"zone": "z", "alpha": 'it\'s <"&">', "mid": ""})
    assert serialise(element) == b"<e alpha='it&apos;s &lt;&quot;&amp;&quot;&gt;' mid='' zone='z'/>"


def test_empty_element() -> None:
    """An empty element has the short form, also inside another."""
    element = etree.Element("outer")
    etree.SubElement(element, "inner").text = ""
    assert serialise(element) == b"<outer><inner/></outer>"


def rewrite(manifest: bytes) -> bytes:
    """Serialise a parsed document as Amazon does, by its description alone."""
    out: list[str] = []
    started = False

    def escape(text: str) -> str:
        for plain, entity in (("&", "amp"), ("<", "lt"), (">", "gt"), ("'", "apos"), ('"', "quot")):
            text = text.replace(plain, f"&{entity};")
        return text

    def close_tag() -> None:
        nonlocal started
        if started:
            out.append(">")
        started = False

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal started
        close_tag()
        out.append(f"<{tag}" + "".join(f" {name}='{escape(attributes[name])}'" for name in sorted(attributes)))
        started = True

    def text(data: str) -> None:
        close_tag()
        out.append(escape(data))

    def end(tag: str) -> None:
        nonlocal started
        out.append("/>" if started else f"</{tag}>")
        started = False

    parser = expat.ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = start, end, text
    parser.Parse(manifest, True)
    return "".join(out).encode()


@pytest.mark.parametrize("facts", [SMALL, FULL], ids=["small", "full"])
@pytest.mark.parametrize("parts", [1, 101])
def test_rewritten_is_the_same(facts: ImageFacts, parts: int) -> None:
    """Parsing and serialising the manifest again gives exactly the signed bytes."""
    manifest, signed = make(facts, parts)
    again = rewrite(manifest)
    assert b"<?xml version='1.0'?>" + again == manifest
    pieces = (re.search(rb"<%s>.*</%s>" % (tag, tag), again) for tag in (b"machine_configuration", b"image"))
    assert b"".join(piece[0] for piece in pieces if piece) == signed


def verify(pair: KeyPair, signed: bytes, signature: bytes, folder: Path) -> bool:
    public, file = folder / "public.pem", folder / "signature"
    public.write_bytes(ask("openssl", "x509", "-in", str(pair.certificate), "-noout", "-pubkey"))
    file.write_bytes(signature)
    argv = ["openssl", "dgst", "-sha1", "-verify", str(public), "-signature", str(file)]
    return subprocess.run(argv, input=signed, capture_output=True, check=False).stdout == b"Verified OK\n"


def test_signature(key_ring: KeyRing, tmp_path: Path) -> None:
    """Openssl verifies the signature over the raw bytes of machine and image, for the user's certificate only."""
    identity = load_identity(key_ring.user.certificate, key_ring.user.key)
    manifest = write_manifest(FULL, measure(3), KEYS, identity.sign)
    found = re.fullmatch(
        rb".*(<machine_configuration>.*</machine_configuration>)(<image>.*</image>)"
        rb"<signature>([0-9a-f]+)</signature></manifest>",
        manifest,
    )
    assert found is not None
    signed, signature = found[1] + found[2], bytes.fromhex(found[3].decode())
    assert verify(key_ring.user, signed, signature, tmp_path)
    assert not verify(key_ring.stranger, signed, signature, tmp_path)
    assert not verify(key_ring.user, signed.replace(b"i386", b"i387"), signature, tmp_path)


@pytest.mark.parametrize("parts", [1, 10, 101, 1001, 5000, 10001])
@pytest.mark.parametrize("prefix", ["i", "p" * 80])
@pytest.mark.parametrize("key_bits", [2048, 8192])
def test_signed_size(parts: int, prefix: str, key_bits: int) -> None:
    """The estimated size is at least the size of the signed text, and little more."""
    user = bytes(key_bits // 8)
    keys = WrappedKeys(ec2_key=bytes(256), ec2_iv=bytes(256), user_key=user, user_iv=user)
    facts = ImageFacts(
        prefix=prefix,
        user="123456789012",
        architecture="x86_64",
        kernel="aki-12345678",
        ramdisk="ari-12345678",
        block_device_mappings={f"ephemeral{n}": f"sd{chr(98 + n)}" for n in range(4)},
    )
    real = len(make(facts, parts, keys)[1])
    assert real <= signed_size(prefix, parts) <= real * 1.05 + 8192
