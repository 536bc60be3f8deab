"""Every kind of store with its contents as another program sees them, for the contract tests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from amistream.aws.session import Aws
from amistream.flow.retry import RetryPolicy
from amistream.location import S3Location
from amistream.ports.store import Mark, Store
from amistream.settings import Acl, Settings
from amistream.stores.s3.multipart import Multipart
from amistream.stores.s3.store import S3Store
from amistream.values import MIB
from support.buckets import list_keys, open_uploads

if TYPE_CHECKING:
    from support.endpoints import Endpoint

QUICK = RetryPolicy(attempts=4, base_s=0.01, cap_s=0.05, stall_s=20)
CHUNK = 5 * MIB
TOKEN = "t0"
"""Marks temporary files of this job in a directory."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """A store, and its contents as another program sees them."""

    store: Store

    def names(self) -> list[str]:
        raise NotImplementedError

    def content(self, name: str) -> bytes:
        raise NotImplementedError

    def unfinished(self) -> int:
        raise NotImplementedError

    def leave_unfinished(self, name: str) -> None:
        """Leave the remains of a put of `name` whose process was killed."""
        raise NotImplementedError

    def leave_unfinished_by_another(self, name: str) -> None:
        """Leave the same remains of another job, or for another name."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Folder(Place):
    directory: Path

    def names(self) -> list[str]:
        return sorted(path.name for path in self.directory.iterdir() if not path.name.startswith("."))

    def content(self, name: str) -> bytes:
        return (self.directory / name).read_bytes()

    def unfinished(self) -> int:
        return len(list(self.directory.glob(".*")))

    def leave_unfinished(self, name: str) -> None:
        (self.directory / f".{name}.{TOKEN}.partial").write_bytes(b"half of i")

    def leave_unfinished_by_another(self, name: str) -> None:
        (self.directory / f".{name}.another.partial").write_bytes(b"half of i")


@dataclass(frozen=True, kw_only=True)
class Bucket(Place):
    endpoint: Endpoint
    bucket: str
    prefix: str

    def names(self) -> list[str]:
        keys = list_keys(self.endpoint, self.bucket, f"{self.prefix}/")
        return [key.removeprefix(f"{self.prefix}/") for key in keys]

    def content(self, name: str) -> bytes:
        with self.endpoint.blocking_client() as s3:
            data: bytes = s3.get_object(Bucket=self.bucket, Key=f"{self.prefix}/{name}")["Body"].read()
        return data

    def unfinished(self) -> int:
        return len(open_uploads(self.endpoint, self.bucket))

    def leave_unfinished(self, name: str) -> None:
        self._begin_upload(f"{self.prefix}/{name}")

    def leave_unfinished_by_another(self, name: str) -> None:
        self._begin_upload(f"{self.prefix}/{name}/and/more")
        self._begin_upload(name)

    def _begin_upload(self, key: str) -> None:
        with self.endpoint.blocking_client() as s3:
            upload = s3.create_multipart_upload(Bucket=self.bucket, Key=key)["UploadId"]
            s3.upload_part(Bucket=self.bucket, Key=key, UploadId=upload, PartNumber=1, Body=b"half of i")


@asynccontextmanager
async def s3_store(
    endpoint: Endpoint,
    bucket: str,
    monkeypatch: pytest.MonkeyPatch,
    *,
    prefix: str = "some/prefix",
    retry: RetryPolicy = QUICK,
    threshold: int = 8 * MIB,
    sign_payload: bool = False,
    mark: Mark | None = None,
) -> AsyncIterator[S3Store]:
    """An S3 store with the service's own client; objects above `threshold` are sent in chunks of 5 MiB."""
    for name, value in endpoint.environ().items():
        monkeypatch.setenv(name, value)
    async with Aws(Settings(sign_payload=sign_payload)) as aws:
        client = await aws.client("s3", endpoint.region, endpoint.url)
        yield S3Store(
            client,
            S3Location(bucket, prefix),
            acl=Acl.AWS_EXEC_READ,
            retry=retry,
            multipart=Multipart(threshold=threshold, chunk=CHUNK, concurrency=2),
            mark=mark,
        )
