"""Every corruption of a bundle is found and named, by `verify --deep` and by `unbundle`, which writes nothing."""

from __future__ import annotations

import asyncio
import gzip
import io
import os
import re
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from amistream.bundles.manifest import LARGEST
from amistream.bundles.meter import Meter
from amistream.errors import AmistreamError, DifferenceError, RefusedError
from amistream.reports import Report
from amistream.units import size_text
from bundles.made import flip, unbundle_at, verify_at
from bundles.shell_bundle import Faults, Form, shell_bundle
from jobs.work import settings
from support.volumes import random_image

if TYPE_CHECKING:
    from support.keys import KeyPair, KeyRing

SIZE = 300_000
PART = 64 * 1024
LAST = 4
"""Number of the last part."""

Damage = Callable[[Path], None]


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return random_image(tmp_path / "disk.img", SIZE)


async def look(manifest: Path, tmp_path: Path, pair: KeyPair) -> Report:
    return await verify_at(manifest, settings(tmp_path), (pair.certificate, pair.key), deep=True)


async def refused(manifest: Path, tmp_path: Path, pair: KeyPair) -> AmistreamError:
    """Run unbundle, which must fail and leave neither an image nor a fragment."""
    place = tmp_path / "out"
    place.mkdir()
    with pytest.raises(AmistreamError) as raised:
        await unbundle_at(manifest, place / "disk.img", settings(tmp_path), pair.key)
    assert list(place.iterdir()) == []
    return raised.value


def part(directory: Path, number: int) -> Path:
    return directory / f"image.part.{number:02d}"


def flip_a_bit(directory: Path) -> None:
    flip(part(directory, 2), 30_000)


def swap(directory: Path) -> None:
    part(directory, 1).rename(directory / "x")
    part(directory, 2).rename(part(directory, 1))
    (directory / "x").rename(part(directory, 2))


def lose(directory: Path) -> None:
    part(directory, 3).unlink()


def cut_short(number: int) -> Damage:
    return lambda directory: os.truncate(part(directory, number), 10_000)


def lengthen(directory: Path) -> None:
    with part(directory, LAST).open("ab") as file:
        file.write(bytes(16))


PARTS: dict[str, tuple[Damage, set[tuple[str, str]], str]] = {
    "a flipped bit": (flip_a_bit, {("part.digest", "image.part.02")}, "part.digest"),
    "swapped parts": (swap, {("part.digest", "image.part.01"), ("part.digest", "image.part.02")}, "part.digest"),
    "a missing part": (lose, {("part.missing", "image.part.03")}, "part.missing"),
    "a short part": (
        cut_short(1),
        {("bundle.size", ""), ("part.size", "image.part.01"), ("part.digest", "image.part.01")},
        "bundle.size",
    ),
    "a short last part": (
        cut_short(LAST),
        {("bundle.size", ""), ("part.size", "image.part.04"), ("part.digest", "image.part.04")},
        "bundle.size",
    ),
    "a long last part": (
        lengthen,
        {("bundle.size", ""), ("part.size", "image.part.04"), ("part.digest", "image.part.04")},
        "bundle.size",
    ),
}


@pytest.mark.parametrize("also_missing", [False, True])
@pytest.mark.parametrize("deep", [False, True])
async def test_a_part_far_too_large(
    deep: bool, also_missing: bool, image: Path, key_ring: KeyRing, tmp_path: Path
) -> None:
    """A part of 1 TiB is reported and not read; all others are."""
    manifest = shell_bundle(tmp_path / "bundle", image, key_ring, part_size=PART)
    flip_a_bit(tmp_path / "bundle")
    os.truncate(part(tmp_path / "bundle", 1), 2**40)
    if also_missing:
        lose(tmp_path / "bundle")
    user = (key_ring.user.certificate, key_ring.user.key)
    report = await asyncio.wait_for(verify_at(manifest, settings(tmp_path), user, deep=deep), 60)
    found = {(each.what, each.part) for each in report.differences}
    assert found >= {("bundle.size", ""), ("part.size", "image.part.01"), ("part.digest", "image.part.02")}
    assert ("part.digest", "image.part.01") not in found


@pytest.mark.parametrize("name", PARTS)
async def test_parts(name: str, image: Path, key_ring: KeyRing, tmp_path: Path) -> None:
    """A damaged part is reported by name: every one by verify, the first one by unbundle."""
    damage, expected, code = PARTS[name]
    manifest = shell_bundle(tmp_path / "bundle", image, key_ring, part_size=PART)
    damage(tmp_path / "bundle")
    report = await look(manifest, tmp_path, key_ring.user)
    found = {(each.what, each.part) for each in report.differences}
    assert expected <= found
    # Other differences come from the damaged content, and belong to no part.
    assert all(each in expected or not each[1] for each in found)
    assert report.content is None
    error = await refused(manifest, tmp_path, key_ring.user)
    assert isinstance(error, DifferenceError)
    assert error.code == f"bundle.{code}"
    for _, part_name in expected:
        assert code == "bundle.size" or part_name in error.message or len(expected) > 1


def python_tar(*names: str) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = SIZE
            archive.addfile(member, io.BytesIO(bytes(SIZE)))
    return file.getvalue()


LAYERS: dict[str, tuple[Faults, str]] = {
    "a wrong size": (Faults(size=SIZE + 1), "image.size"),
    "a size too small": (Faults(size=SIZE - 4096), "image.size"),
    "a wrong digest": (Faults(digest="ab" * 20), "image.digest"),
    "a wrong sum of sizes": (Faults(bundled_size=1234), "bundle.size"),
    "wrong padding": (Faults(padding=False, gzip=lambda data: data + bytes(-len(data) % 16)), "cipher.padding"),
    "half a cipher block": (Faults(cipher=lambda data: data[:-3]), "cipher.size"),
    "another key": (Faults(cipher=lambda data: bytes(len(data))), "gzip.header"),
    "no gzip": (Faults(gzip=gzip.decompress), "gzip.header"),
    "truncated gzip": (Faults(gzip=lambda data: data[:-100]), "gzip.truncated"),
    "truncated trailer": (Faults(gzip=lambda data: data[:-1]), "gzip.truncated"),
    "two members": (Faults(gzip=lambda data: data + gzip.compress(b"more")), "gzip.second_member"),
    "data after the member": (Faults(gzip=lambda data: data + b"more"), "gzip.trailing"),
    "an extra field": (
        Faults(gzip=lambda data: data[:3] + b"\4" + data[4:10] + b"\2\0ab" + data[10:]),
        "gzip.extra_field",
    ),
    "a wrong CRC": (Faults(gzip=lambda data: data[:-8] + b"\0\0\0\0" + data[-4:]), "gzip.crc"),
    "a wrong length": (Faults(gzip=lambda data: data[:-4] + b"\0\0\0\0"), "gzip.size"),
    "damaged deflate data": (Faults(gzip=lambda data: data[:10] + b"\7" + data[11:]), "gzip.deflate"),
    "a tar with ..": (Faults(tar=lambda _: python_tar("../image")), "tar.parent_name"),
    "a tar with an absolute name": (Faults(tar=lambda _: python_tar("/etc/passwd")), "tar.absolute_name"),
    "a tar with a path": (Faults(tar=lambda _: python_tar("a/image")), "tar.path"),
    "a tar with two members": (Faults(tar=lambda _: python_tar("image", "other")), "tar.second_member"),
    "a truncated tar": (Faults(tar=lambda data: data[:100_000]), "tar.truncated"),
    "no tar": (Faults(tar=lambda _: os.urandom(SIZE)), "tar.header"),
    "an empty tar": (Faults(tar=lambda _: bytes(10240)), "tar.empty"),
    "data after the tar": (Faults(tar=lambda data: data + b"more"), "tar.trailing"),
}


@pytest.mark.parametrize("name", LAYERS)
async def test_layers(name: str, image: Path, key_ring: KeyRing, tmp_path: Path) -> None:
    """A fault inside, in parts that all match the manifest, has its own code."""
    faults, code = LAYERS[name]
    manifest = shell_bundle(tmp_path / "bundle", image, key_ring, faults=faults)
    report = await look(manifest, tmp_path, key_ring.user)
    assert code in {each.what for each in report.differences}
    assert all(
        each.what == code or (each.part, code) == ("image.part.00", "bundle.size") for each in report.differences
    )
    error = await refused(manifest, tmp_path, key_ring.user)
    assert isinstance(error, DifferenceError)
    assert error.code == f"bundle.{code}"
    assert str(manifest) in error.hint


async def test_a_long_bundle_goes_no_further_than_the_damaged_part(
    key_ring: KeyRing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unbundle stops at the first part that differs, where verify reads on and finds the others."""
    image = random_image(tmp_path / "disk.img", 3_000_000)
    manifest = shell_bundle(tmp_path / "bundle", image, key_ring, part_size=PART)
    for number in (3, 30):
        flip(part(tmp_path / "bundle", number))
    meter = Meter()
    with pytest.raises(DifferenceError, match=r"image\.part\.03"):
        await unbundle_at(manifest, tmp_path / "out.img", settings(tmp_path), key_ring.user.key, meter=meter)
    assert meter.parts_done == 4
    report = await look(manifest, tmp_path, key_ring.user)
    assert [each.part for each in report.differences if each.what == "part.digest"] == [
        "image.part.03",
        "image.part.30",
    ]


async def test_a_foreign_key(image: Path, key_ring: KeyRing, tmp_path: Path) -> None:
    """With another user's key the bundle cannot be opened, which is reported before any read."""
    manifest = shell_bundle(tmp_path / "bundle", image, key_ring)
    with pytest.raises(RefusedError, match="another certificate") as raised:
        await look(manifest, tmp_path, key_ring.stranger)
    assert raised.value.code == "key.other"
    assert (await refused(manifest, tmp_path, key_ring.stranger)).code == "key.other"


async def test_a_bundle_for_ec2_alone(image: Path, key_ring: KeyRing, tmp_path: Path) -> None:
    """A bundle without a user certificate can be verified from outside, and opened only by EC2."""
    manifest = shell_bundle(tmp_path / "bundle", image, key_ring, form=Form(user_keys=False))
    report = await verify_at(manifest, settings(tmp_path))
    assert report.differences == ()
    error = await refused(manifest, tmp_path, key_ring.user)
    assert (error.code, "only EC2 has its key" in error.message) == ("key.other", True)


async def test_a_wrong_signature(image: Path, key_ring: KeyRing, tmp_path: Path) -> None:
    """A manifest signed by another user, or changed after signing, is reported and not unbundled."""
    manifest = shell_bundle(tmp_path / "bundle", image, key_ring, signer=key_ring.stranger)
    report = await look(manifest, tmp_path, key_ring.user)
    assert [each.what for each in report.differences] == ["signature.wrong"]
    assert (await refused(manifest, tmp_path, key_ring.user)).code == "bundle.signature.wrong"
    changed = shell_bundle(tmp_path / "changed", image, key_ring)
    changed.write_text(changed.read_text().replace("<architecture>x86_64", "<architecture>i386"))
    assert [each.what for each in (await look(changed, tmp_path, key_ring.user)).differences] == ["signature.wrong"]


def forged(text: str) -> str:
    """Make a manifest that contains the signed elements in a place where they do not count."""
    signed = "".join(re.findall("<(?:machine_configuration|image)>.*</(?:machine_configuration|image)>", text))
    assert signed
    other = re.sub("<(/?)(machine_configuration|image)>", r"<\1\2 >", text).replace(">x86_64<", ">i386<")
    return other.replace("<signature>", f"<note><![CDATA[{signed}]]></note><signature>")


async def test_a_forged_manifest(image: Path, key_ring: KeyRing, tmp_path: Path) -> None:
    """The signed elements must be those that are read: the signed text elsewhere does not make a signature valid."""
    manifest = shell_bundle(tmp_path / "bundle", image, key_ring)
    manifest.write_text(forged(manifest.read_text()))
    assert [each.what for each in (await look(manifest, tmp_path, key_ring.user)).differences] == ["signature.wrong"]
    assert (await refused(manifest, tmp_path, key_ring.user)).code == "bundle.signature.wrong"


@pytest.mark.parametrize(("version", "told"), [("2007-10-10", "3"), ("2007-08-29", "3"), ("3", "2007-08-29")])
async def test_a_version_that_was_changed(
    version: str, told: str, image: Path, key_ring: KeyRing, tmp_path: Path
) -> None:
    """The version says what is signed, and is not signed itself: another one makes no signature right."""
    manifest = shell_bundle(tmp_path / "bundle", image, key_ring, form=Form(version=version))
    machine = "<machine_configuration><architecture>arm64</architecture></machine_configuration>"
    added = f"{machine}<image>" if version == "3" else "<image>"
    text = manifest.read_text().replace(f"<version>{version}", f"<version>{told}").replace("<image>", added)
    manifest.write_text(text)
    assert [each.what for each in (await look(manifest, tmp_path, key_ring.user)).differences] == ["signature.wrong"]


@pytest.mark.parametrize("signature", ["absent", "", "dummy", "00"])
async def test_no_signature_to_speak_of(signature: str, image: Path, key_ring: KeyRing, tmp_path: Path) -> None:
    """An absent or dummy signature is reported, and does not prevent unbundling."""
    manifest = shell_bundle(tmp_path / "bundle", image, key_ring, form=Form(signature=signature))
    report = await look(manifest, tmp_path, key_ring.user)
    assert (report.differences, report.signature) == ((), "absent")
    assert "the manifest has no signature" in report.notes
    notes: list[str] = []
    await unbundle_at(manifest, tmp_path / "out.img", settings(tmp_path), key_ring.user.key, notes=notes)
    assert (tmp_path / "out.img").read_bytes() == image.read_bytes()
    assert len(notes) == 1


def with_entity(text: str) -> str:
    declared = '<!DOCTYPE manifest [<!ENTITY x SYSTEM "file:///etc/passwd">]>'
    return re.sub("(<manifest>)", rf"{declared}\1", text).replace("x86_64", "&x;")


MANIFESTS: dict[str, Callable[[str], str]] = {
    "an entity": with_entity,
    "cut off": lambda text: text[: len(text) // 2],
    "a path in a part's name": lambda text: text.replace("image.part.00", "../image.part.00"),
    "another version": lambda text: text.replace("2007-10-10", "2008-01-01"),
    "an older version": lambda text: text.replace("2007-10-10", "2"),
    "no version": lambda text: text.replace("2007-10-10", ""),
    "a part without a number": lambda text: text.replace('index="0"', ""),
    "a part's number that is none": lambda text: text.replace('index="0"', 'index="x"'),
    "a part's number twice": lambda text: text.replace('index="1"', 'index="0"'),
    "a part that is missing": lambda text: re.sub('<part index="0">.*?</part>', "", text).replace(' count="', ' c="'),
    "a comment": lambda text: text.replace("<image>", "<image><!-- it hides something -->"),
    "an instruction": lambda text: f"{text}<?do it?>",
    "a second image": lambda text: text.replace("<signature>", "<image><size>1</size></image><signature>"),
    "no parts": lambda text: re.sub(r"<part .*</part>", "", text),
    "a digest that is none": lambda text: re.sub('SHA1">[0-9a-f]{40}', 'SHA1">zz', text, count=1),
}


@pytest.mark.parametrize("name", MANIFESTS)
async def test_manifests(name: str, image: Path, key_ring: KeyRing, tmp_path: Path) -> None:
    """A manifest that no tool writes is refused before any request."""
    manifest = shell_bundle(tmp_path / "bundle", image, key_ring)
    manifest.write_text(MANIFESTS[name](manifest.read_text()))
    with pytest.raises(RefusedError, match="cannot use the manifest"):
        await look(manifest, tmp_path, key_ring.user)
    assert (await refused(manifest, tmp_path, key_ring.user)).code == "manifest.bad"


async def test_an_entity_in_utf16(image: Path, key_ring: KeyRing, tmp_path: Path) -> None:
    """An entity is found in any encoding."""
    manifest = shell_bundle(tmp_path / "bundle", image, key_ring, form=Form(declaration=False))
    manifest.write_text(with_entity(manifest.read_text()), encoding="utf-16")
    error = await refused(manifest, tmp_path, key_ring.user)
    assert (error.code, "document type" in error.message) == ("manifest.bad", True)


async def test_a_huge_manifest(key_ring: KeyRing, tmp_path: Path) -> None:
    """A manifest of 1 GiB is refused by its size, unread."""
    manifest = tmp_path / "image.manifest.xml"
    manifest.touch()
    os.truncate(manifest, 2**30)
    error = await refused(manifest, tmp_path, key_ring.user)
    assert (error.code, size_text(LARGEST) in error.message) == ("manifest.bad", True)


@pytest.mark.parametrize("filling", [b"<a/>", b"<a b='' c=''/>", b"<a>" + b"x" * 60 + b"</a>"])
def test_memory_of_a_hostile_manifest(filling: bytes, tmp_path: Path) -> None:
    """A manifest full of elements or attributes is refused before it takes much memory."""
    manifest = tmp_path / "image.manifest.xml"
    manifest.write_bytes(b"<manifest>" + filling * ((LARGEST - 30) // len(filling)) + b"</manifest>")
    program = "from amistream.bundles.place import read_manifest; import asyncio, pathlib, resource, sys\n"
    program += "from amistream.errors import RefusedError\n"
    program += "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
    program += "try: asyncio.run(read_manifest(pathlib.Path(sys.argv[1])))\n"
    program += "except RefusedError: print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    done = subprocess.run([sys.executable, "-c", program, manifest], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 32 * 1024


async def test_no_manifest(key_ring: KeyRing, tmp_path: Path) -> None:
    """A missing manifest, or an address that is not a manifest's, is refused."""
    assert (await refused(tmp_path / "image.manifest.xml", tmp_path, key_ring.user)).code == "manifest.missing"


async def test_no_key_at_all(image: Path, key_ring: KeyRing, tmp_path: Path) -> None:
    """Without a key a bundle is verified from outside only, and no key pair is made for it."""
    manifest = shell_bundle(tmp_path / "bundle", image, key_ring)
    report = await verify_at(manifest, settings(tmp_path))
    assert (report.differences, report.signature) == ((), "not checked: no certificate at hand")
    with pytest.raises(RefusedError, match="private key of its user") as raised:
        await verify_at(manifest, settings(tmp_path), deep=True)
    assert raised.value.code == "key.missing"
    assert not (tmp_path / "state").exists()
