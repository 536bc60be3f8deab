"""Parses the address of a place for bundles, `s3://BUCKET[/KEY_PREFIX]` or a directory, and the address of a manifest.

A location says only where; whether the place exists, and whether a bundle may go there, is checked by others.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from amistream.errors import RefusedError
from amistream.values import is_path

SCHEME = "s3://"


@dataclass(frozen=True, slots=True)
class S3Location:
    """A folder in a bucket. `key_prefix` has no slash at its end, and is '' for the whole bucket."""

    bucket: str
    key_prefix: str = ""

    def __str__(self) -> str:
        return f"{SCHEME}{self.plain()}"

    def key(self, name: str) -> str:
        """The key of the object `name` in this folder."""
        return f"{self.key_prefix}/{name}" if self.key_prefix else name

    def plain(self, name: str = "") -> str:
        """BUCKET/KEY of the object `name`, as EC2 names a manifest; without a name, of the folder."""
        return "/".join(filter(None, (self.bucket, self.key_prefix, name)))


@dataclass(frozen=True, slots=True)
class DirectoryLocation:
    path: Path

    def __str__(self) -> str:
        return str(self.path)


Location: TypeAlias = S3Location | DirectoryLocation
"""Code that treats each kind in its own way uses `match`; mypy then finds where a new kind is missing."""


def parse_location(text: str) -> Location:
    """Parse a folder's address; slashes at its ends are dropped. The names in it are not checked."""
    return parse_s3_location(text) if text.startswith(SCHEME) else DirectoryLocation(Path(text))


def parse_s3_location(text: str) -> S3Location:
    """Parse BUCKET[/KEY_PREFIX], with or without `s3://`."""
    bucket, _, key_prefix = text.removeprefix(SCHEME).strip("/").partition("/")
    return S3Location(bucket, key_prefix)


def parse_manifest_address(address: str) -> tuple[Location, str]:
    """Split a manifest's address into its folder and its name. Raises `RefusedError` if it names no file."""
    if not address.startswith(SCHEME) and not is_path(address):
        raise RefusedError(
            "manifest.address",
            f"cannot use {address}: it is neither s3://BUCKET/... nor a path",
            hint="write s3://BUCKET/KEY/NAME.manifest.xml, or ./ before a path of such a name",
            field="manifest",
        )
    folder, slash, name = address.rpartition("/")
    if not name or folder == "s3:/":
        raise no_manifest_error(address)
    return parse_location(folder or ("/" if slash else ".")), name


def no_manifest_error(address: str) -> RefusedError:
    return RefusedError(
        "manifest.address",
        f"cannot look for a bundle at {address}: this is a folder, not a manifest",
        hint="give the manifest itself, such as s3://BUCKET/KEY/image.manifest.xml or ./image.manifest.xml",
        field="manifest",
    )
