"""The installations that `make dist` left in `dist/`, and the bare systems that they are used in."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from dist.running import unpacked
from support.bare_roots import BareRoot, bare_root, debian_root

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.endpoints import Endpoint

S3 = "s3.bare.test"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.dist)
            item.add_marker(pytest.mark.timeout(1800))


@pytest.fixture(scope="session")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BareRoot]:
    """A root with the tree below /srv and nothing else."""
    path = tmp_path_factory.mktemp("empty")
    unpacked(path / "srv")
    with bare_root(path, {S3: "127.0.0.1"}) as root:
        yield root


@pytest.fixture(scope="session")
def bare_debian(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smallest Debian, not mounted."""
    path = tmp_path_factory.mktemp("debian") / "root"
    debian_root(path)
    return path


@pytest.fixture(scope="session")
def debian(bare_debian: Path) -> Iterator[BareRoot]:
    """The smallest Debian with the tree below /srv, whose libraries take part in lookups and in every program."""
    unpacked(bare_debian / "srv")
    (bare_debian / "etc/nsswitch.conf").write_text(
        "passwd: compat files\ngroup: compat files\nhosts: hesiod files dns\n"
    )
    (bare_debian / "etc/ld.so.preload").write_text(f"/lib/{os.uname().machine}-linux-gnu/libnss_compat.so.2\n")
    with bare_root(bare_debian, {S3: "127.0.0.1", "localhost": "127.0.0.1"}) as root:
        yield root


@pytest.fixture
def s3(ministack: Endpoint) -> dict[str, str]:
    """Variables for the local endpoint by its name in /etc/hosts."""
    port = urlsplit(ministack.url).port
    return {**ministack.environ(), "AMISTREAM_ENDPOINT_URL": f"http://{S3}:{port}"}
