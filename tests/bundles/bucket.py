"""Fixtures: an endpoint with EC2, an older tool's bundle in a directory, and a bucket with that bundle in it."""

from __future__ import annotations

import secrets
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bundles.made import older_bundle, put_files
from jobs.work import use_endpoint

if TYPE_CHECKING:
    from conftest import MakeBucket
    from support.endpoints import Endpoint
    from support.keys import KeyRing

SIZES = [3000, 3000, 100]


@pytest.fixture
def ministack(ministack: Endpoint) -> Endpoint:
    """An account of its own.

    This endpoint reports no AMI's bundle, so AMIs of other tests would keep every bundle from being deleted.
    """
    return replace(ministack, access_key=f"9{secrets.randbelow(10**11):011}")


@pytest.fixture
def cloud(ministack: Endpoint, monkeypatch: pytest.MonkeyPatch) -> Endpoint:
    """Start an endpoint with EC2."""
    use_endpoint(ministack, monkeypatch)
    return ministack


@pytest.fixture
def bundle(tmp_path: Path, key_ring: KeyRing) -> Path:
    """Write a bundle of three parts, and return its manifest."""
    return older_bundle(tmp_path / "old", key_ring, SIZES)


@pytest.fixture
def bucket(cloud: Endpoint, make_bucket: MakeBucket, bundle: Path) -> str:
    """Make a bucket with the bundle in it."""
    name = make_bucket(cloud)
    put_files(cloud, name, bundle.parent)
    return name
