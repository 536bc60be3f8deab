"""The referee accepts a bundle made by shell tools, and sees each kind of damage."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from support import referee, volumes

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from support.keys import KeyPair, KeyRing

AES_KEY, AES_IV = "00112233445566778899aabbccddeeff", "ffeeddccbbaa99887766554433221100"
PART_SIZE = 1 << 20
TAR = ["tar", "--format=gnu", "--sparse", "--owner=0", "--group=0", "--numeric-owner", "-cf", "-"]


def sha1(data: bytes) -> str:
    return hashlib.sha1(data, usedforsecurity=False).hexdigest()


def wrap(pair: KeyPair, secret: str) -> str:
    argv = ["openssl", "pkeyutl", "-encrypt", "-certin", "-inkey", str(pair.certificate)]
    return subprocess.run(argv, input=secret.encode(), capture_output=True, check=True).stdout.hex()


def shell_bundle(directory: Path, image: Path, keys: KeyRing, *, gzip: str = "gzip -1c") -> None:
    """Make a bundle the way of the old tools: tar, gzip, openssl, split."""
    directory.mkdir()
    tar = subprocess.run([*TAR, "-C", image.parent, image.name], capture_output=True, check=True).stdout
    steps = f"{gzip} | openssl enc -aes-128-cbc -K {AES_KEY} -iv {AES_IV}"
    split = f"split -b {PART_SIZE} -d -a 2 - {directory / image.name}.part."
    subprocess.run(["bash", "-ec", f"{steps} | {split}"], input=tar, check=True)
    parts = sorted(directory.iterdir())
    listed = "".join(
        f"<part index='{index}'><filename>{path.name}</filename>"
        f"<digest algorithm='SHA1'>{sha1(path.read_bytes())}</digest></part>"
        for index, path in enumerate(parts)
    )
    machine = "<machine_configuration><architecture>x86_64</architecture></machine_configuration>"
    content = (
        f"<image><name>{image.name}</name><user>123456789012</user><type>machine</type>"
        f"<digest algorithm='SHA1'>{sha1(tar)}</digest>"
        f"<size>{image.stat().st_size}</size>"
        f"<bundled_size>{sum(path.stat().st_size for path in parts)}</bundled_size>"
        f"<ec2_encrypted_key algorithm='AES-128-CBC'>{wrap(keys.ec2, AES_KEY)}</ec2_encrypted_key>"
        f"<user_encrypted_key algorithm='AES-128-CBC'>{wrap(keys.user, AES_KEY)}</user_encrypted_key>"
        f"<ec2_encrypted_iv>{wrap(keys.ec2, AES_IV)}</ec2_encrypted_iv>"
        f"<user_encrypted_iv>{wrap(keys.user, AES_IV)}</user_encrypted_iv>"
        f"<parts count='{len(parts)}'>{listed}</parts></image>"
    )
    sign = ["openssl", "dgst", "-sha1", "-sign", str(keys.user.key)]
    signed = (machine + content).encode()
    signature = subprocess.run(sign, input=signed, capture_output=True, check=True).stdout.hex()
    (directory / f"{image.name}.manifest.xml").write_text(
        "<?xml version='1.0'?><manifest><version>2007-10-10</version><bundler><name>shell</name>"
        f"<version>1</version><release>0</release></bundler>{machine}{content}"
        f"<signature>{signature}</signature></manifest>"
    )


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("image") / "image"
    return volumes.sparse_image(path, 6 << 20, [(0, 700_000), (3 << 20, 1_500_000)])


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory, image: Path, key_ring: KeyRing) -> Path:
    directory = tmp_path_factory.mktemp("good") / "bundle"
    shell_bundle(directory, image, key_ring)
    return directory


def test_shell_bundle_is_accepted(good: Path, image: Path, key_ring: KeyRing) -> None:
    """A bundle made by tar, gzip, openssl and split passes every check."""
    bundle = referee.check_bundle(good, image, key_ring.user.key, key_ring.user.certificate)
    assert (bundle.aes_key, bundle.aes_iv) == (AES_KEY, AES_IV)
    assert (bundle.image_size, len(bundle.parts)) == (6 << 20, 3)


def damage_part(directory: Path) -> None:
    part = directory / "image.part.01"
    data = bytearray(part.read_bytes())
    data[1000] ^= 1
    part.write_bytes(data)


def edit(old: str, new: str) -> Callable[[Path], None]:
    def change(directory: Path) -> None:
        path = directory / "image.manifest.xml"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    return change


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(damage_part, id="a bit of a part"),
        pytest.param(lambda directory: (directory / "image.part.02").unlink(), id="a missing part"),
        pytest.param(lambda directory: (directory / "stray").touch(), id="a stray file"),
        pytest.param(edit("'SHA1'", '"SHA1"'), id="double quotes"),
        pytest.param(edit("<image>", "<image >"), id="a space in a tag"),
        pytest.param(edit("</manifest>", "</manifest>\n"), id="a newline at the end"),
        pytest.param(edit("<type>machine</type>", "<type></type>"), id="an empty element"),
        pytest.param(edit("x86_64", "i386"), id="an unsigned change"),
        pytest.param(edit("<size>6291456", "<size>6291457"), id="another size"),
        pytest.param(edit("<release>0</release>", ""), id="a missing element"),
    ],
)
def test_damage_is_seen(
    damage: Callable[[Path], None], good: Path, image: Path, key_ring: KeyRing, tmp_path: Path
) -> None:
    """Every kind of damage to a bundle fails a check."""
    directory = tmp_path / "bundle"
    shutil.copytree(good, directory)
    damage(directory)
    with pytest.raises(AssertionError):
        referee.check_bundle(directory, image, key_ring.user.key, key_ring.user.certificate)


@pytest.mark.parametrize("large", [referee.LARGE, 1])
def test_other_image_is_seen(
    large: int, good: Path, image: Path, key_ring: KeyRing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bundle of an image that differs in one byte is not taken for this one, in either way of comparing."""
    monkeypatch.setattr(referee, "LARGE", large)
    bundle = referee.read_bundle(good, key_ring.user.key)
    referee.check_content(bundle, image)
    other = tmp_path / "other"
    data = bytearray(image.read_bytes())
    data[-1] ^= 1
    other.write_bytes(data)
    with pytest.raises(AssertionError):
        referee.check_content(bundle, other)


def test_stranger_is_seen(good: Path, key_ring: KeyRing) -> None:
    """Another user's key does not unwrap, and another certificate does not verify."""
    with pytest.raises(AssertionError):
        referee.read_bundle(good, key_ring.stranger.key)
    bundle = referee.read_bundle(good, key_ring.user.key)
    with pytest.raises(AssertionError):
        referee.check_signature(bundle, key_ring.stranger.certificate)


def test_two_gzip_members_are_seen(image: Path, key_ring: KeyRing, tmp_path: Path) -> None:
    """A stream of two gzip members is refused even when gzip itself reads it."""
    shell_bundle(tmp_path / "bundle", image, key_ring, gzip=f"{sys.executable} -c '{TWO_MEMBERS}'")
    bundle = referee.read_bundle(tmp_path / "bundle", key_ring.user.key)
    with pytest.raises(AssertionError, match="after the gzip member"):
        referee.check_one_gzip_member(bundle)


TWO_MEMBERS = (
    "import gzip, sys; data = sys.stdin.buffer.read();"
    "sys.stdout.buffer.write(gzip.compress(data[:1000000], 1) + gzip.compress(data[1000000:], 1))"
)
