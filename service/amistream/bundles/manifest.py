"""Reads a bundle's manifest, whichever tool wrote it, and checks its signature.

Format: bundle manifest version 2007-10-10, and the older ones that Amazon's tools read: 2007-08-29 has only the
architecture of the machine, version 3 not even that, and its signature is over the image alone. Accepted are double and
single quotes, white space between elements and before the declaration, missing optional elements, parts in any order,
an absent or dummy signature, and empty user keys. Refused are features that no tool writes and that could do harm: a
document type (and so entities), comments, a second image, more than `LARGEST` bytes, part names with a path, parts that
are missing or there twice.

Pure: bytes in, values out, without network access.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA1
from lxml import etree

from amistream.errors import RefusedError
from amistream.reports import Signature
from amistream.stages.manifest import VERSION, serialise
from amistream.units import size_text
from amistream.values import MIB

LARGEST = 4 * MIB
"""Maximum bytes of a manifest: four times what EC2 accepts, which is about 7000 parts."""
MOST_MARKUP = 100_000
"""Maximum tags and attributes of a manifest: a part has 8. Each takes about 200 bytes of memory once parsed."""

SHORTEST_SIGNATURE = 64
"""Size of the smallest RSA signature; a shorter one is a dummy and counts as absent."""

SIGNED = {
    VERSION: ("machine_configuration", "image"),
    "2007-08-29": ("machine_configuration", "image"),
    "3": ("image",),
}
"""The versions, and the signed elements of each, in order."""
_OLD_KIND, _OLD_ARCHITECTURE = "machine", "i386"
"""Kind and architecture of every image when manifests did not name them."""

_DOCTYPE = "it declares a document type, which could smuggle in other files"
_MARKUP = re.compile(rb"<|=\s*[\"']")
_ODD_ENCODING = re.compile(
    rb"[^>]*\bencoding\s*=\s*[\"'](?!utf-?8|utf-?16|(us-)?ascii|iso-?8859-1|latin-?1|windows-125)", re.IGNORECASE
)
"""At the beginning of a text: an encoding in which markup has other bytes. euca2ools writes ASCII."""
_HEX = re.compile(r"(?:[0-9a-fA-F]{2})*")
_SHA1_HEX = re.compile(r"[0-9a-f]{40}")
_NAME = re.compile(r"[^/\0]{1,255}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestPart:
    """A part in the manifest: its object's name without the key prefix, and its SHA-1 in hex."""

    index: int
    filename: str
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The values of a manifest. Sizes in bytes. Wrapped keys are RSA ciphertext; an empty element gives no bytes."""

    raw: bytes
    version: str
    bundler: str
    bundler_version: str
    architecture: str
    kernel: str
    ramdisk: str
    product_codes: tuple[str, ...]
    block_device_mappings: dict[str, str]
    name: str
    user: str
    kind: str
    kernel_name: str
    ancestors: tuple[str, ...]
    digest: str
    size: int
    bundled_size: int
    ec2_key: bytes
    ec2_iv: bytes
    user_key: bytes
    user_iv: bytes
    parts: tuple[ManifestPart, ...]
    signature: bytes


def parse_manifest(raw: bytes, name: str) -> Manifest:
    """Read a manifest; `name` is for messages. Raises `RefusedError` with the fault."""
    return _Reader(raw, name).read()


def check_signature(manifest: Manifest, certificate: x509.Certificate) -> Signature:
    """Verify the signature over the text of the file, or else over the text as Amazon's own check rewrites it."""
    if len(manifest.signature) < SHORTEST_SIGNATURE:
        return Signature.ABSENT
    public = certificate.public_key()
    assert isinstance(public, rsa.RSAPublicKey)  # noqa: S101 - for the type checker; load_certificate checks it
    tags = SIGNED[manifest.version]
    elements = _signed_elements(manifest.raw, tags)
    for signed, state in (
        (signed_text(manifest.raw, tags), Signature.RIGHT),
        (b"".join(map(serialise, elements)), Signature.REWRITTEN),
    ):
        try:
            public.verify(manifest.signature, signed, padding.PKCS1v15(), SHA1())  # noqa: S303 - the format's own
        except InvalidSignature:
            continue
        if state is Signature.REWRITTEN or _says(signed, elements):
            return state
    return Signature.WRONG


def signed_text(raw: bytes, tags: Sequence[str]) -> bytes:
    """Cut the signed bytes out of the file: the elements, one directly followed by the next."""
    found = (re.search(rb"<%s>.*</%s>" % (tag, tag), raw, re.DOTALL) for tag in map(str.encode, tags))
    return b"".join(match[0] for match in found if match)


class _Reader:
    """Reads one manifest."""

    def __init__(self, raw: bytes, name: str) -> None:
        self._raw = raw
        self._name = name

    def read(self) -> Manifest:
        root = self._root()
        version = self._text(root, "version")
        if version not in SIGNED:
            raise self._bad(f"it has version {version!r}, and only {', '.join(SIGNED)} are known")
        for tag in SIGNED[version]:
            if len(root.findall(tag)) != 1:
                raise self._bad(f"it has {len(root.findall(tag))} elements {tag}, and a manifest has one")
        for tag in set(SIGNED[VERSION]).difference(SIGNED[version]):
            # Not signed, so it is not to be believed.
            for element in root.findall(tag):
                root.remove(element)
        parts = self._parts(root)
        mappings = {
            self._text(mapping, "virtual"): self._text(mapping, "device")
            for mapping in root.findall("machine_configuration/block_device_mapping/mapping")
        }
        return Manifest(
            raw=self._raw,
            version=version,
            bundler=self._optional(root, "bundler/name"),
            bundler_version=self._optional(root, "bundler/version"),
            architecture=_OLD_ARCHITECTURE
            if root.find("machine_configuration") is None
            else self._text(root, "machine_configuration/architecture"),
            kernel=self._optional(root, "machine_configuration/kernel_id"),
            ramdisk=self._optional(root, "machine_configuration/ramdisk_id"),
            product_codes=self._all(root, "machine_configuration/product_codes/product_code"),
            block_device_mappings=mappings,
            name=self._file_name(self._text(root, "image/name"), "image/name"),
            user=self._text(root, "image/user"),
            kind=_OLD_KIND if version != VERSION else self._text(root, "image/type"),
            kernel_name=self._optional(root, "image/kernel_name"),
            ancestors=self._all(root, "image/ancestry/ancestor_ami_id"),
            digest=self._sha1(root, "image/digest"),
            size=self._number(root, "image/size"),
            bundled_size=self._number(root, "image/bundled_size"),
            ec2_key=self._hex(root, "image/ec2_encrypted_key"),
            ec2_iv=self._hex(root, "image/ec2_encrypted_iv"),
            user_key=self._hex(root, "image/user_encrypted_key"),
            user_iv=self._hex(root, "image/user_encrypted_iv"),
            parts=parts,
            signature=self._signature(root),
        )

    def _root(self) -> etree._Element:
        self._check_text()
        parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False)
        try:
            root = etree.fromstring(_from_declaration(self._raw), parser)
        except etree.XMLSyntaxError as error:
            raise self._bad(f"it is not XML ({error})") from None
        if root.getroottree().docinfo.internalDTD is not None:
            # An encoding such as UTF-16 hides the declaration from the search above.
            raise self._bad(_DOCTYPE)
        if root.tag != "manifest":
            raise self._bad(f"its root is <{root.tag}>, not <manifest>")
        if root.xpath("//comment() | //processing-instruction()"):
            raise self._bad(
                "it has comments or processing instructions; no tool writes them, and they could hide a forgery"
            )
        return root

    def _check_text(self) -> None:
        """Refuse a text that is dangerous to parse, or takes much memory."""
        # UTF-16 has a NUL in each character of markup.
        text = self._raw.replace(b"\0", b"")
        if len(self._raw) > LARGEST:
            raise self._bad(f"it has {size_text(len(self._raw))}, and a manifest has at most {size_text(LARGEST)}")
        if _ODD_ENCODING.match(text) or not text.lstrip(b"\xef\xbb\xbf\xfe\xff \t\r\n").startswith(b"<"):
            raise self._bad("it is not XML in UTF-8")
        if b"<!DOCTYPE" in text or b"<!ENTITY" in text:
            raise self._bad(_DOCTYPE)
        if sum(1 for _ in islice(_MARKUP.finditer(text), MOST_MARKUP + 1)) > MOST_MARKUP:
            raise self._bad(f"it has more than {MOST_MARKUP} tags and attributes: EC2 accepts no such manifest")

    def _parts(self, root: etree._Element) -> tuple[ManifestPart, ...]:
        parts = sorted(
            (
                ManifestPart(
                    index=int(index) if re.fullmatch("[0-9]{1,6}", index := element.get("index", "")) else -1,
                    filename=self._file_name(self._text(element, "filename"), "part/filename"),
                    digest=self._sha1(element, "digest"),
                )
                for element in root.findall("image/parts/part")
            ),
            key=lambda part: part.index,
        )
        if not parts:
            raise self._bad("it names no parts")
        if [part.index for part in parts] != list(range(len(parts))):
            raise self._bad("its parts are not numbered 0, 1, 2 ..., each number once")
        count = root.find("image/parts")
        declared = count.get("count") if count is not None else None
        if declared not in (None, str(len(parts))):
            raise self._bad(f"it says {declared} parts and names {len(parts)}")
        if len({part.filename for part in parts}) != len(parts):
            raise self._bad("it names the same part twice")
        return tuple(parts)

    def _text(self, element: etree._Element, where: str) -> str:
        text = self._optional(element, where)
        if not text:
            raise self._bad(f"{where} is missing or empty")
        return text

    def _optional(self, element: etree._Element, where: str) -> str:
        return (element.findtext(where) or "").strip()

    def _all(self, element: etree._Element, where: str) -> tuple[str, ...]:
        return tuple((found.text or "").strip() for found in element.findall(where))

    def _number(self, element: etree._Element, where: str) -> int:
        text = self._text(element, where)
        if not re.fullmatch("[0-9]{1,18}", text) or int(text) == 0:
            raise self._bad(f"{where} is {text!r}, not a size")
        return int(text)

    def _sha1(self, element: etree._Element, where: str) -> str:
        text = self._text(element, where).lower()
        if not _SHA1_HEX.fullmatch(text):
            raise self._bad(f"{where} is not a SHA-1 in hex")
        return text

    def _hex(self, element: etree._Element, where: str) -> bytes:
        text = "".join(self._optional(element, where).split())
        if not _HEX.fullmatch(text):
            raise self._bad(f"{where} is not hex")
        return bytes.fromhex(text)

    def _signature(self, root: etree._Element) -> bytes:
        """Decode the signature; a dummy that is not hex counts as absent."""
        text = "".join(self._optional(root, "signature").split())
        return bytes.fromhex(text) if _HEX.fullmatch(text) else b""

    def _file_name(self, text: str, where: str) -> str:
        if not _NAME.fullmatch(text) or text in {".", ".."}:
            raise self._bad(f"{where} is {text!r}, which is no plain file name")
        return text

    def _bad(self, why: str) -> RefusedError:
        return RefusedError(
            "manifest.bad",
            f"cannot use the manifest {self._name}: {why}",
            hint="check that this is the manifest (NAME.manifest.xml) and that it came whole",
            field="manifest",
        )


def _from_declaration(raw: bytes) -> bytes:
    """The text without white space before its declaration, which XML forbids; one in UTF-16 stays as it is."""
    stripped = raw.removeprefix(codecs.BOM_UTF8).lstrip()
    return stripped if stripped.startswith(b"<") and b"\0" not in stripped[:2] else raw


def _signed_elements(raw: bytes, tags: Sequence[str]) -> list[etree._Element]:
    """Find the signed elements with the parser, without the white space between their children."""
    parser = etree.XMLParser(resolve_entities=False, no_network=True, remove_blank_text=True)
    root = etree.fromstring(_from_declaration(raw), parser)
    return [element for tag in tags for element in root.findall(tag)]


def _says(text: bytes, elements: Sequence[etree._Element]) -> bool:
    """Check that a text cut out of the file is the element that the parser found.

    They may differ: XML has several ways to write a start tag, and places that hold arbitrary text.
    """
    parser = etree.XMLParser(resolve_entities=False, no_network=True, remove_blank_text=True)
    try:
        found = etree.fromstring(b"<signed>" + text + b"</signed>", parser)
    except etree.XMLSyntaxError:
        return False
    return [serialise(element) for element in found] == [serialise(element) for element in elements]
