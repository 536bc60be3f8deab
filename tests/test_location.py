"""Locations and the addresses of manifests, parsed and written back."""

from __future__ import annotations

from pathlib import Path

import pytest

from amistream.errors import RefusedError
from amistream.location import DirectoryLocation, S3Location, parse_location, parse_manifest_address


@pytest.mark.parametrize(
    ("text", "bucket", "key_prefix", "written"),
    [
        ("s3://b", "b", "", "s3://b"),
        ("s3://b/", "b", "", "s3://b"),
        ("s3://b/x/y/", "b", "x/y", "s3://b/x/y"),
        ("s3://b//x", "b", "/x", "s3://b//x"),
        ("s3://", "", "", "s3://"),
    ],
)
def test_a_bucket(text: str, bucket: str, key_prefix: str, written: str) -> None:
    """An S3 address is split at its first slash, and loses the slashes at its ends."""
    location = parse_location(text)
    assert location == S3Location(bucket, key_prefix)
    assert str(location) == written


def test_names_in_a_bucket() -> None:
    """An object's key and EC2's BUCKET/KEY of a manifest have no empty step."""
    whole, folder = S3Location("b"), S3Location("b", "x")
    assert (whole.key("n"), folder.key("n")) == ("n", "x/n")
    assert (whole.plain("n"), folder.plain("n"), folder.plain()) == ("b/n", "b/x/n", "b/x")


@pytest.mark.parametrize(
    ("address", "folder", "name"),
    [
        ("s3://b/m.xml", S3Location("b"), "m.xml"),
        ("s3://b/x/m.xml", S3Location("b", "x"), "m.xml"),
        ("/d/m.xml", DirectoryLocation(Path("/d")), "m.xml"),
        ("/m.xml", DirectoryLocation(Path("/")), "m.xml"),
        ("m.xml", DirectoryLocation(Path()), "m.xml"),
    ],
)
def test_a_manifest(address: str, folder: S3Location | DirectoryLocation, name: str) -> None:
    """A manifest's address is its folder and its name."""
    assert parse_manifest_address(address) == (folder, name)


@pytest.mark.parametrize("address", ["s3://", "s3://b", "s3://b/", "d/", "https://b/m.xml", "s3:/b/m.xml"])
def test_no_manifest(address: str) -> None:
    """An address without a file name, or with another scheme, is refused."""
    with pytest.raises(RefusedError) as caught:
        parse_manifest_address(address)
    assert caught.value.code == "manifest.address"
