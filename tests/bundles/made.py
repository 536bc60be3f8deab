"""Bundles for tests: made by our own engine, or written by hand as the older tools write them."""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from amistream.aws.session import Aws
from amistream.bundles.meter import Meter
from amistream.bundles.results import Unbundled
from amistream.bundles.session import BundleSession
from amistream.reports import Report
from amistream.settings import Settings
from jobs.work import request, run, settings
from support.volumes import random_image

if TYPE_CHECKING:
    from support.endpoints import Endpoint
    from support.keys import KeyPair, KeyRing

AES_KEY, AES_IV = b"0f" * 16, b"a0" * 16


async def engine_bundle(
    directory: Path, keys: KeyRing, tmp_path: Path, *, size: int = 1_500_000, **changes: Any
) -> Path:
    """Bundle noise into `directory` with our own engine and return the image."""
    image = random_image(tmp_path / "disk.img", size)
    job = await run(request(image, directory, keys, compress="1", **changes), settings(tmp_path))
    assert job.result is not None, job.error
    return image


def older_bundle(
    directory: Path,
    keys: KeyRing,
    sizes: list[int],
    *,
    name: str = "holes.img",
    kernel: str = "",
    ramdisk: str = "",
    signer: KeyPair | None = None,
    digits: int = 1,
) -> Path:
    """Write parts of noise, named as ec2-bundle-image does, and an indented manifest in double quotes; return that.

    The parts hold no archive: the bundle is for copying, listing and deleting, which use digests only.
    """
    directory.mkdir(parents=True, exist_ok=True)
    noise = random.Random(f"{name} {sizes}")
    parts = []
    for index, size in enumerate(sizes):
        path = directory / f"{name}.part.{index:0{digits}d}"
        path.write_bytes(noise.randbytes(size))
        digest = hashlib.sha1(path.read_bytes()).hexdigest()
        element = f'<filename>{path.name}</filename>\n<digest algorithm="SHA1">{digest}</digest>'
        parts.append(f'<part index="{index}">\n{element}</part>')
    optional = "".join(
        f"<{tag}>{text}</{tag}>" for tag, text in (("kernel_id", kernel), ("ramdisk_id", ramdisk)) if text
    )
    machine = f"<machine_configuration><architecture>x86_64</architecture>{optional}</machine_configuration>"
    wrapped = "".join(
        f"<{whose}_encrypted_{what}{kind}>{_wrap(pair, secret)}</{whose}_encrypted_{what}>\n"
        for what, secret, kind in (("key", AES_KEY, ' algorithm="AES-128-CBC"'), ("iv", AES_IV, ""))
        for whose, pair in (("ec2", keys.ec2), ("user", keys.user))
    )
    image = (
        f"<image>\n<name>{name}</name><user>123456789012</user><type>machine</type>"
        f'<digest algorithm="SHA1">{"ab" * 20}</digest><size>41943040</size><bundled_size>{sum(sizes)}</bundled_size>\n'
        f'{wrapped}<parts count="{len(parts)}">{"".join(parts)}</parts></image>'
    )
    key = serialization.load_pem_private_key(
        (signer or keys.user).key.read_bytes(), None, unsafe_skip_rsa_key_validation=True
    )
    assert isinstance(key, rsa.RSAPrivateKey)
    signature = key.sign((machine + image).encode(), padding.PKCS1v15(), hashes.SHA1()).hex()  # noqa: S303 - the format's own
    manifest = directory / f"{name}.manifest.xml"
    manifest.write_text(
        f'<?xml version="1.0"?>\n<manifest><version>2007-10-10</version>\n<bundler><name>ec2-ami-tools</name>'
        f"<version>1.5</version><release>3</release></bundler>{machine}{image}<signature>{signature}</signature></manifest>\n"
    )
    return manifest


def _wrap(pair: KeyPair, secret: bytes) -> str:
    public = x509.load_pem_x509_certificate(pair.certificate.read_bytes()).public_key()
    assert isinstance(public, rsa.RSAPublicKey)
    return public.encrypt(secret, padding.PKCS1v15()).hex()


def flip(path: Path, offset: int = 100) -> None:
    """Change one bit of a file."""
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1]))


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@dataclass
class Work:
    """A session on bundles in this process, and its notes."""

    settings: Settings
    notes: list[str]

    @asynccontextmanager
    async def session(self) -> AsyncIterator[BundleSession]:
        async with Aws(self.settings) as aws:
            yield BundleSession(self.settings, aws, self.notes.append)


def work(tmp_path: Path, endpoint: Endpoint | None = None, **changes: Any) -> Work:
    """Make quick settings; the endpoint's credentials are in the environment (`use_endpoint`)."""
    more = {"endpoint_url": endpoint.url} if endpoint is not None else {}
    return Work(settings(tmp_path, **{**more, **changes}), [])


async def verify_at(
    address: Path | str, it: Settings, files: tuple[Path | None, Path | None] = (None, None), *, deep: bool = False
) -> Report:
    """Verify with the user's certificate and private key, where given."""
    async with Work(it, []).session() as session:
        return await session.verify(str(address), Meter(), deep=deep, certificate=files[0], private_key=files[1])


async def unbundle_at(
    address: Path | str,
    to: Path | str,
    it: Settings,
    key: Path | None,
    *,
    meter: Meter | None = None,
    notes: list[str] | None = None,
    force: bool = False,
) -> Unbundled:
    """Unbundle with the user's private key."""
    async with Work(it, [] if notes is None else notes).session() as session:
        return await session.unbundle(str(address), str(to), meter or Meter(), force=force, private_key=key)


def put_files(endpoint: Endpoint, bucket: str, directory: Path, prefix: str = "") -> None:
    """Store every file as the older tools do: without a checksum."""
    with endpoint.blocking_client() as s3:
        for path in sorted(directory.iterdir()):
            s3.put_object(Bucket=bucket, Key=f"{prefix}{path.name}", Body=path.read_bytes(), ACL="aws-exec-read")


def stored_bytes(endpoint: Endpoint, bucket: str, prefix: str = "") -> dict[str, bytes]:
    """Read the objects under the prefix, by name."""
    with endpoint.blocking_client() as s3:
        pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        keys = [entry["Key"] for page in pages for entry in page.get("Contents", [])]
        return {key.removeprefix(prefix): s3.get_object(Bucket=bucket, Key=key)["Body"].read() for key in keys}


def named(text: str) -> list[str]:
    """List the part names in a manifest, in order."""
    return re.findall("<filename>([^<]+)</filename>", text)


def register(endpoint: Endpoint, location: str) -> str:
    """Register an AMI; ministack shows its name as its location."""
    with endpoint.blocking_client("ec2") as ec2:
        return str(
            ec2.register_image(Name=location, ImageLocation=location, Architecture="x86_64", VirtualizationType="hvm")[
                "ImageId"
            ]
        )


def images(endpoint: Endpoint) -> list[str]:
    with endpoint.blocking_client("ec2") as ec2:
        return [each["ImageId"] for each in ec2.describe_images(Owners=["self"])["Images"]]
