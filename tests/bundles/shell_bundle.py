"""A bundle writer made of common programs (`tar`, `gzip`, `openssl`, `split`) and handwritten manifests.

Makes bundles like those of the older tools, with a manifest in every possible form and, if a test asks, with a fault in
any layer. Imports nothing of amistream.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from support.keys import KeyPair, KeyRing

KEY, IV = "00112233445566778899aabbccddeeff", "f0e0d0c0b0a090807060504030201000"
Change = Callable[[bytes], bytes]


def same(data: bytes) -> bytes:
    return data


@dataclass(frozen=True, kw_only=True)
class Form:
    """The form of a manifest, and its optional elements."""

    quote: str = '"'
    pretty: bool = False
    declaration: bool = True
    kind: str = "machine"
    bundler: bool = True
    kernel: str = ""
    ramdisk: str = ""
    product_codes: Sequence[str] = ()
    mappings: Mapping[str, str] = field(default_factory=dict)
    ancestors: Sequence[str] = ()
    kernel_name: str = ""
    user_keys: bool = True
    count: bool = True
    signature: str = "right"
    """`right`, `absent` or any text."""
    version: str = "2007-10-10"
    """2007-08-29 has only the architecture of the machine, 3 no machine at all; both no type of the image."""
    backwards: bool = False
    """The parts stand in descending order."""
    before: str = ""
    """Text before the declaration."""
    encoding: str = ""


EVERYTHING: dict[str, Any] = {
    "kernel": "aki-12345678",
    "ramdisk": "ari-12345678",
    "product_codes": ("A1B2C3D4", "E5F6"),
    "mappings": {"ami": "sda1", "ephemeral0": "sdb", "root": "/dev/sda1"},
    "ancestors": ("ami-11111111", "ami-22222222"),
}


@dataclass(frozen=True, kw_only=True)
class Faults:
    """Changes of each layer before the next one is added, and false values for the manifest."""

    tar: Change = same
    gzip: Change = same
    cipher: Change = same
    padding: bool = True
    digest: str = ""
    size: int = 0
    bundled_size: int = 0


def shell_bundle(
    directory: Path,
    image: Path,
    keys: KeyRing,
    *,
    form: Form | None = None,
    faults: Faults | None = None,
    name: str = "image",
    member: str = "",
    part_size: int = 64 * 1024,
    digits: int = 2,
    sparse: bool = True,
    level: int = 9,
    signer: KeyPair | None = None,
    tar_format: Sequence[str] = ("--format=gnu",),
) -> Path:
    """Bundle `image` into `directory` and return the manifest."""
    form, faults = form or Form(), faults or Faults()
    directory.mkdir(parents=True, exist_ok=True)
    archive = faults.tar(tar(image, member or name, sparse=sparse, form=tar_format))
    cipher = faults.cipher(encrypt(faults.gzip(run("gzip", f"-{level}", "-n", given=archive)), padding=faults.padding))
    pattern = directory / f"{name}.part."
    run(
        "split",
        "--bytes",
        str(part_size),
        "--numeric-suffixes",
        f"--suffix-length={digits}",
        "-",
        str(pattern),
        given=cipher,
    )
    parts = sorted(directory.glob(f"{name}.part.*"))
    text = manifest(
        form,
        name=name,
        digest=faults.digest or sha1(archive),
        size=faults.size or image.stat().st_size,
        bundled_size=faults.bundled_size or len(cipher),
        parts=[(part.name, digest) for part, digest in zip(parts, sha1_of(parts), strict=True)],
        keys=keys,
        signer=signer or keys.user,
    )
    path = directory / f"{name}.manifest.xml"
    path.write_text(text)
    return path


def tar(image: Path, member: str, *, sparse: bool = True, form: Sequence[str] = ("--format=gnu",)) -> bytes:
    """Make an archive of one member of that name, owned by root, as ec2-bundle-image calls tar."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / member).symlink_to(image.absolute())
        more = ["--sparse"] if sparse else []
        owner = ["--owner=0", "--group=0", "--numeric-owner"]
        return run("tar", "--create", "--dereference", *form, *more, *owner, "--directory", folder, member)


def encrypt(data: bytes, *, padding: bool = True) -> bytes:
    more = [] if padding else ["-nopad"]
    return run("openssl", "enc", "-e", "-aes-128-cbc", "-K", KEY, "-iv", IV, *more, given=data)


def sha1(data: bytes) -> str:
    return run("openssl", "sha1", "-r", given=data).split()[0].decode()


def sha1_of(parts: Sequence[Path]) -> list[str]:
    return [line.split()[0] for line in run("openssl", "sha1", "-r", *map(str, parts)).decode().splitlines()]


def manifest(
    form: Form,
    *,
    name: str,
    digest: str,
    size: int,
    bundled_size: int,
    parts: Sequence[tuple[str, str]],
    keys: KeyRing,
    signer: KeyPair,
) -> str:
    """Make the manifest's text and sign it."""
    write = _Writer(form)
    machine = write.element(
        "machine_configuration",
        write.text("architecture", "x86_64"),
        write.optional(
            "block_device_mapping",
            *(
                write.element("mapping", write.text("virtual", virtual), write.text("device", device))
                for virtual, device in sorted(form.mappings.items())
            ),
        ),
        write.some("kernel_id", form.kernel),
        write.some("ramdisk_id", form.ramdisk),
        write.optional("product_codes", *(write.text("product_code", code) for code in form.product_codes)),
    )
    machine = "" if form.version == "3" else machine
    aes, sha = {"algorithm": "AES-128-CBC"}, {"algorithm": "SHA1"}
    user = wrap(keys.user, KEY) if form.user_keys else "", wrap(keys.user, IV) if form.user_keys else ""
    image = write.element(
        "image",
        write.text("name", name),
        write.text("user", "123456789012"),
        write.text("type", form.kind) if form.version == "2007-10-10" else "",
        write.some("kernel_name", form.kernel_name),
        write.optional("ancestry", *(write.text("ancestor_ami_id", ami) for ami in form.ancestors)),
        write.text("digest", digest, **sha),
        write.text("size", str(size)),
        write.text("bundled_size", str(bundled_size)),
        write.text("ec2_encrypted_key", wrap(keys.ec2, KEY), **aes),
        write.text("user_encrypted_key", user[0], **aes),
        write.text("ec2_encrypted_iv", wrap(keys.ec2, IV)),
        write.text("user_encrypted_iv", user[1]),
        write.element(
            "parts",
            *(
                write.element("part", write.text("filename", part), write.text("digest", sha1, **sha), index=str(index))
                for index, (part, sha1) in sorted(enumerate(parts), reverse=form.backwards)
            ),
            **({"count": str(len(parts))} if form.count else {}),
        ),
    )
    made = form.signature if form.signature not in {"right", "absent"} else sign(signer, machine + image)
    encoding = f" encoding={form.quote}{form.encoding}{form.quote}" if form.encoding else ""
    declaration = f"<?xml version={form.quote}1.0{form.quote}{encoding}?>" if form.declaration else ""
    bundler = write.element(
        "bundler", write.text("name", "shell"), write.text("version", "1"), write.text("release", "1")
    )
    return f"{form.before}{declaration}" + write.element(
        "manifest",
        write.text("version", form.version),
        bundler if form.bundler else "",
        machine,
        image,
        "" if form.signature == "absent" else write.text("signature", made),
    )


class _Writer:
    """Makes elements as text, with the quotes and layout of the form."""

    def __init__(self, form: Form) -> None:
        self._quote = form.quote
        self._space = "\n  " if form.pretty else ""

    def element(self, tag: str, *children: str, **attributes: str) -> str:
        inside = "".join(self._space + child for child in children if child)
        return f"<{tag}{self._attributes(attributes)}>{inside}{self._space[:1]}</{tag}>"

    def optional(self, tag: str, *children: str) -> str:
        return self.element(tag, *children) if children else ""

    def text(self, tag: str, text: str, **attributes: str) -> str:
        return f"<{tag}{self._attributes(attributes)}>{escape(text)}</{tag}>"

    def some(self, tag: str, text: str) -> str:
        return self.text(tag, text) if text else ""

    def _attributes(self, attributes: Mapping[str, str]) -> str:
        return "".join(f" {name}={self._quote}{value}{self._quote}" for name, value in sorted(attributes.items()))


@cache
def wrap(pair: KeyPair, secret: str) -> str:
    """Encrypt the hex of a secret for a certificate's owner; returns hex."""
    padding = ("-pkeyopt", "rsa_padding_mode:pkcs1")
    argv = ("openssl", "pkeyutl", "-encrypt", "-certin", "-inkey", str(pair.certificate), *padding)
    return run(*argv, given=secret.encode()).hex()


def sign(pair: KeyPair, text: str) -> str:
    return run("openssl", "dgst", "-sha1", "-sign", str(pair.key), given=text.encode()).hex()


def run(*argv: str, given: bytes = b"") -> bytes:
    done = subprocess.run(argv, input=given, capture_output=True, check=False)
    assert done.returncode == 0, f"{argv}: {done.stderr.decode()}"
    return done.stdout
