"""Fixtures that every test may ask for; a server starts when the first test asks for it."""

from __future__ import annotations

import asyncio
import gc
import os
import secrets
from contextlib import ExitStack
from typing import TYPE_CHECKING, Protocol

import hypothesis
import pytest
from hypothesis import HealthCheck

from support import endpoints, keys, tls
from support.buckets import create_bucket, remove_bucket
from support.ebs_endpoint import EbsEndpoint, EbsServer, run_ebs
from support.loop import TidyLoop
from support.proxy import Fault, FaultProxy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.endpoints import Endpoint
    from support.keys import KeyRing
    from support.tls import Authority

ENDPOINTS = ("moto_server", "ministack", "seaweedfs", "seaweedfs_https")


class MakeBucket(Protocol):
    def __call__(self, endpoint: Endpoint, *, acls: bool = True) -> str: ...


class MakeProxy(Protocol):
    def __call__(self, endpoint: Endpoint, *faults: Fault) -> FaultProxy: ...


def pytest_asyncio_loop_factories() -> dict[str, type[asyncio.AbstractEventLoop]]:
    return {"tidy": TidyLoop}


def pytest_configure() -> None:
    """Collect garbage less often: the collector took a sixth of the suite's CPU time. Let no clock fail a test."""
    gc.set_threshold(10_000)
    hypothesis.settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    hypothesis.settings.load_profile("patient")


def pytest_collection_finish() -> None:
    """Let the collector pass over what stays to the end."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _no_cloud_settings() -> Iterator[None]:
    """Keep this machine's credentials, regions and settings out of every test."""
    with pytest.MonkeyPatch.context() as patch:
        for name in os.environ:
            # The SDK would load the certificates of this system for each client, which takes 30 ms.
            if name.startswith(("AWS_", "EC2_", "AMISTREAM_")) or name == "REQUESTS_CA_BUNDLE":
                patch.delenv(name)
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv("AWS_CONFIG_FILE", os.devnull)
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
        yield


@pytest.fixture(scope="session")
def tls_authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """A certificate authority that only this session trusts."""
    return tls.make_authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="session")
def key_ring(tmp_path_factory: pytest.TempPathFactory) -> KeyRing:
    """Throwaway key pairs and certificates of the user, EC2, and a stranger."""
    return keys.make_keys(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="session")
def moto_server(_no_cloud_settings: None) -> Iterator[Endpoint]:
    """Moto's server: S3, EC2 and STS without any check of signatures."""
    with endpoints.run_moto() as endpoint:
        yield endpoint


@pytest.fixture(scope="session")
def ministack(_no_cloud_settings: None) -> Iterator[Endpoint]:
    """Ministack: S3, EC2, STS and instance metadata."""
    with endpoints.run_ministack() as endpoint:
        yield endpoint


@pytest.fixture(scope="session")
def _seaweedfs_doors(_no_cloud_settings: None, tls_authority: Authority) -> Iterator[tuple[Endpoint, Endpoint]]:
    with endpoints.run_seaweedfs(tls_authority) as doors:
        yield doors


@pytest.fixture(scope="session")
def seaweedfs(_seaweedfs_doors: tuple[Endpoint, Endpoint]) -> Endpoint:
    """SeaweedFS over HTTP: an independent S3 that checks signatures and checksums."""
    return _seaweedfs_doors[0]


@pytest.fixture(scope="session")
def seaweedfs_https(_seaweedfs_doors: tuple[Endpoint, Endpoint]) -> Endpoint:
    """The same SeaweedFS over HTTPS, with a certificate of `tls_authority`."""
    return _seaweedfs_doors[1]


@pytest.fixture(scope="session")
def ebs_server(_no_cloud_settings: None) -> Iterator[EbsServer]:
    """The strict double of the EBS direct APIs and the EC2 requests around them."""
    with run_ebs() as server:
        yield server


@pytest.fixture
def ebs_endpoint(ebs_server: EbsServer) -> Iterator[EbsEndpoint]:
    """A fresh account of `ebs_server`."""
    with ebs_server.account() as account:
        yield account


@pytest.fixture(params=ENDPOINTS)
def endpoint(request: pytest.FixtureRequest) -> Endpoint:
    """Each endpoint in turn."""
    chosen: Endpoint = request.getfixturevalue(request.param)
    return chosen


@pytest.fixture
def make_bucket() -> Iterator[MakeBucket]:
    """A function that makes a fresh bucket, with ACLs or without, and removes it after the test."""
    with ExitStack() as stack:

        def make(endpoint: Endpoint, *, acls: bool = True) -> str:
            bucket = f"amistream-{secrets.token_hex(8)}"
            create_bucket(endpoint, bucket, acls=acls)
            stack.callback(remove_bucket, endpoint, bucket)
            return bucket

        yield make


@pytest.fixture
def make_proxy(request: pytest.FixtureRequest) -> Iterator[MakeProxy]:
    """A function that puts a fault proxy in front of an endpoint until the test ends."""
    with ExitStack() as stack:

        def make(endpoint: Endpoint, *faults: Fault) -> FaultProxy:
            front = None
            if endpoint.is_https:
                authority: Authority = request.getfixturevalue("tls_authority")
                front = authority.server_context()
            return stack.enter_context(FaultProxy(endpoint, faults, front=front))

        yield make
