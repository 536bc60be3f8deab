"""Manifest: the XML that makes a set of parts a bundle, computed only from the measurements of the other stages.

Format: bundle manifest version 2007-10-10. The signature covers the text of `machine_configuration` directly
followed by the text of `image`, exactly as in the file. Amazon's check serialises the parsed document again before it
verifies, so this module writes the form of that serialiser: single-quoted attributes, no white space between elements,
all five entities, no newline at the end. Any XML reader accepts it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from lxml import etree

from amistream import __version__
from amistream.values import Measured, part_name

VERSION = "2007-10-10"
SIGNED_MAX = 1024 * 1024
"""Bytes of signed text that Amazon's check accepts: about 7,000 parts."""

_ENTITIES = {ord("&"): "&amp;", ord("<"): "&lt;", ord(">"): "&gt;", ord("'"): "&apos;", ord('"'): "&quot;"}


@dataclass(frozen=True, slots=True, kw_only=True)
class WrappedKeys:
    """The AES key and IV, RSA-encrypted for EC2 and for the user."""

    ec2_key: bytes
    ec2_iv: bytes
    user_key: bytes
    user_iv: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFacts:
    """Facts in the manifest that no stage measures. Empty values are left out of the XML."""

    prefix: str
    user: str
    architecture: str
    kind: str = "machine"
    kernel_name: str = ""
    kernel: str = ""
    ramdisk: str = ""
    product_codes: Sequence[str] = ()
    ancestors: Sequence[str] = ()
    block_device_mappings: Mapping[str, str] = field(default_factory=dict)
    part_names: Sequence[str] = ()
    """The names of parts that exist already; empty: `part_name` makes them."""


def write_manifest(facts: ImageFacts, measured: Measured, keys: WrappedKeys, sign: Callable[[bytes], bytes]) -> bytes:
    """The bytes of the manifest file; `sign` returns the RSA-SHA1 signature of its argument."""
    machine = serialise(_machine_configuration(facts))
    image = serialise(_image(facts, measured, keys))
    signature = sign(machine + image).hex().encode()
    version, release = __version__.rsplit(".", 1)
    bundler = _parent("bundler", _text("name", "amistream"), _text("version", version), _text("release", release))
    head = b"<?xml version='1.0'?><manifest>" + serialise(_text("version", VERSION)) + serialise(bundler)
    return head + machine + image + b"<signature>" + signature + b"</signature></manifest>"


def signed_size(prefix: str, parts: int) -> int:
    """An upper limit of the signed bytes of a manifest of `parts` parts, for refusing too many in advance."""
    name = _escaped(part_name(prefix, parts)).decode()
    one_part = len(f"<part index='{parts}'><filename>{name}</filename><digest algorithm='SHA1'></digest></part>") + 40
    return 8192 + parts * one_part


def serialise(element: etree._Element) -> bytes:
    """Write an element in the one textual form that every check of the signature accepts."""
    attributes = "".join(
        f" {name}='{value.translate(_ENTITIES)}'"
        for name, value in sorted((str(k), str(v)) for k, v in element.items())
    )
    content = _escaped(element.text or "")
    content += b"".join(serialise(child) for child in element)
    tag = str(element.tag)
    if not content:
        return f"<{tag}{attributes}/>".encode()
    return f"<{tag}{attributes}>".encode() + content + f"</{tag}>".encode()


def _escaped(text: str) -> bytes:
    return text.translate(_ENTITIES).encode("ascii", "xmlcharrefreplace")


def _machine_configuration(facts: ImageFacts) -> etree._Element:
    element = _parent("machine_configuration", _text("architecture", facts.architecture))
    if facts.block_device_mappings:
        pairs = sorted(facts.block_device_mappings.items())
        mappings = (_parent("mapping", _text("virtual", each), _text("device", device)) for each, device in pairs)
        element.append(_parent("block_device_mapping", *mappings))
    if facts.kernel:
        element.append(_text("kernel_id", facts.kernel))
    if facts.ramdisk:
        element.append(_text("ramdisk_id", facts.ramdisk))
    if facts.product_codes:
        element.append(_parent("product_codes", *(_text("product_code", code) for code in facts.product_codes)))
    return element


def _image(facts: ImageFacts, measured: Measured, keys: WrappedKeys) -> etree._Element:
    element = _parent("image", _text("name", facts.prefix), _text("user", facts.user), _text("type", facts.kind))
    if facts.kernel_name:
        element.append(_text("kernel_name", facts.kernel_name))
    if facts.ancestors:
        element.append(_parent("ancestry", *(_text("ancestor_ami_id", ami) for ami in facts.ancestors)))
    aes = {"algorithm": "AES-128-CBC"}
    sha1 = {"algorithm": "SHA1"}
    names = facts.part_names or [part_name(facts.prefix, part.index) for part in measured.split.parts]
    parts = [
        _parent("part", _text("filename", name), _text("digest", part.sha1.hex(), **sha1), index=str(part.index))
        for part, name in zip(measured.split.parts, names, strict=True)
    ]
    element.extend(
        (
            _text("digest", measured.archive.sha1.hex(), **sha1),
            _text("size", str(measured.image_size)),
            _text("bundled_size", str(measured.split.bundled_size)),
            _text("ec2_encrypted_key", keys.ec2_key.hex(), **aes),
            _text("user_encrypted_key", keys.user_key.hex(), **aes),
            _text("ec2_encrypted_iv", keys.ec2_iv.hex()),
            _text("user_encrypted_iv", keys.user_iv.hex()),
            _parent("parts", *parts, count=str(len(parts))),
        )
    )
    return element


def _text(tag: str, text: str, **attributes: str) -> etree._Element:
    element = etree.Element(tag, attributes)
    element.text = text
    return element


def _parent(tag: str, *children: etree._Element, **attributes: str) -> etree._Element:
    element = etree.Element(tag, attributes)
    element.extend(children)
    return element
