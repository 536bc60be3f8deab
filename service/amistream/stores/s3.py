"""S3 as destination: parts as objects under a key prefix, verified by S3 itself, readable by EC2.

Every object is sent with the canned ACL, `If-None-Match: *` (nothing is ever overwritten) and its SHA-1, which S3
checks and keeps. The payload is signed only where asked: the SHA-1 in the signed header already covers it. Parts
above a threshold go up as multipart uploads, whose chunks are sent and repeated one by one; each chunk needs a
SHA-1 of its own, taken on a thread.

When a request is cancelled after its last byte was sent, its answer is waited for a little: the object may come to
exist, and an undo that ran before it did would leave it behind.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from botocore.exceptions import ClientError, ConnectionClosedError

from amistream.aws.translate import SDK_ERRORS, error_code, http_status, translate
from amistream.errors import StoreError, first_cause
from amistream.flow.pace import RateLimit
from amistream.flow.uncut import settled
from amistream.settings import Acl
from amistream.stores.body import Body
from amistream.stores.port import OnBytes, Stored, whole_checksum
from amistream.stores.retry import Alive, RetryPolicy, with_retries
from amistream.values import MIB

DELETE_BATCH = 1000
"""Objects that one request deletes. AWS limit."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """An object as a listing shows it; its name may have slashes."""

    name: str
    size: int
    modified: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Multipart:
    """Bodies over `threshold` bytes go up in chunks of `chunk` bytes, `concurrency` at a time."""

    threshold: int
    chunk: int
    concurrency: int


class S3Store:
    """One bucket and key prefix, through one client that others may share."""

    def __init__(
        self,
        client: Any,
        *,
        bucket: str,
        key_prefix: str,
        acl: Acl,
        retry: RetryPolicy,
        multipart: Multipart,
        limit: RateLimit | None = None,
    ) -> None:
        """`key_prefix` is without slashes at its ends, or empty; `limit` holds for all bodies together."""
        self._client = client
        self._limit = limit
        self._bucket = bucket
        self._key_prefix = f"{key_prefix}/" if key_prefix else ""
        self.location = f"s3://{bucket}/{key_prefix}".rstrip("/")
        self._acl = acl
        self._retry = retry
        self._multipart = multipart
        self._multipart_used = False
        self._foreign: set[str] = set()
        self._chunk_digests: dict[str, list[bytes]] = {}

    async def open(self) -> None:
        """Nothing to make ready: a bucket is the user's own."""

    async def checksum(self, name: str, data: memoryview, sha1: bytes) -> str:
        if len(data) <= self._multipart.threshold:
            return whole_checksum(sha1)
        digests = self._chunk_digests[name] = await asyncio.to_thread(
            lambda: [_sha1(chunk) for chunk in self._chunks(data)]
        )
        return f"{whole_checksum(_sha1(b''.join(digests)))}-{len(digests)}"

    async def put(self, name: str, data: memoryview, sha1: bytes, on_bytes: OnBytes) -> None:
        if len(data) > self._multipart.threshold:
            await self._put_chunks(name, data, on_bytes)
        else:
            await self._put_whole(name, data, sha1, on_bytes)

    async def commit(self, name: str, data: bytes, sha1: bytes) -> None:
        await self._put_whole(name, memoryview(data), sha1, lambda _: None)

    async def stat(self, name: str, *, read: bool = True) -> Stored | None:
        del read  # S3 keeps checksums

        async def attempt(_: Alive) -> Stored | None:
            try:
                reply = await self._client.head_object(**self._object(name), ChecksumMode="ENABLED")
            except ClientError as error:
                if http_status(error) == 404:  # noqa: PLR2004 - HTTP's own number
                    return None
                raise
            return Stored(reply["ContentLength"], reply.get("ChecksumSHA1"))

        return await self._request(f"look at {self._url(name)}", attempt)

    async def read(self, name: str, start: int, length: int) -> bytes:
        async def attempt(alive: Alive) -> bytes:
            reply = await self._client.get_object(**self._object(name), Range=f"bytes={start}-{start + length - 1}")
            pieces = []
            try:
                async with reply["Body"] as body:
                    async for piece in body.iter_chunks(MIB):
                        alive()
                        pieces.append(piece)
            except Exception as error:
                # When a reply ends too early the SDK lets the HTTP library's own error through.
                if not type(error).__module__.startswith("aiohttp"):
                    raise
                raise ConnectionClosedError(endpoint_url="the endpoint", error=error) from error
            return b"".join(pieces)

        return await self._request(f"read {self._url(name)}", attempt)

    async def names(self, prefix: str) -> list[str]:
        return [listed.name async for listed in self.listed(prefix)]

    async def listed(self, prefix: str) -> AsyncIterator[Listed]:
        """Everything whose name begins with `prefix`, folders below included, in the order of names."""
        token: dict[str, str] = {}
        while True:

            async def attempt(_: Alive, token: dict[str, str] = token) -> Any:
                return await self._client.list_objects_v2(
                    Bucket=self._bucket, Prefix=self._key_prefix + prefix, **token
                )

            reply = await self._request(f"list {self.location}", attempt)
            for entry in reply.get("Contents", ()):
                name = entry["Key"].removeprefix(self._key_prefix)
                yield Listed(name=name, size=entry["Size"], modified=entry["LastModified"])
            if not reply.get("IsTruncated"):
                return
            token = {"ContinuationToken": reply["NextContinuationToken"]}

    async def copy(self, name: str, source: S3Store, source_name: str, sha1: bytes) -> str | None:
        """Have S3 copy an object here, under our ACL, and hash it; returns its checksum as far as S3 tells.

        `sha1` is what it should be: another object that is there already is refused, by endpoints that look at
        `If-None-Match` for copies. Raises `StoreError`, also where this endpoint or account may not read the source.
        """

        async def attempt(_: Alive) -> str | None:
            call = self._client.copy_object(
                **self._object(name),
                CopySource=source._object(source_name),
                ACL=self._acl.value,
                ChecksumAlgorithm="SHA1",
                MetadataDirective="REPLACE",
                ContentType="application/octet-stream",
                IfNoneMatch="*",
            )
            reply = await settled(call, lambda: True)
            told: str | None = reply["CopyObjectResult"].get("ChecksumSHA1")
            return told

        try:
            told = await self._request(f"copy {source.location}/{source_name} to {self._url(name)}", attempt)
        except StoreError as error:
            if error.code != "aws.PreconditionFailed":
                raise
            stored = await self.stat(name)
            if stored is None or stored.checksum != whole_checksum(sha1):
                raise self._exists(name) from error
            return stored.checksum  # our own, from an attempt whose answer was lost
        if told is None and (stored := await self.stat(name)) is not None:
            told = stored.checksum
        return told

    async def delete_all(self, names: Sequence[str]) -> None:
        """Delete whole objects, a thousand with one request; absent is well."""
        keys = [{"Key": self._key_prefix + name} for name in names]

        async def attempt(_: Alive) -> None:
            batch = {"Objects": keys[:DELETE_BATCH], "Quiet": True}
            reply = await self._client.delete_objects(Bucket=self._bucket, Delete=batch)
            if errors := reply.get("Errors"):
                raise ClientError({"Error": errors[0]}, "DeleteObjects")

        while keys:
            await self._request(f"delete objects in {self.location}", attempt)
            del keys[:DELETE_BATCH]

    async def delete(self, name: str) -> None:
        async def remove(_: Alive) -> None:
            await self._client.delete_object(**self._object(name))

        if self._multipart_used:
            await self._abort_all([name])
        if name not in self._foreign:
            await self._request(f"delete {self._url(name)}", remove)

    async def tidy(self, unfinished: Mapping[str, str]) -> None:
        # The checksum of what goes up in chunks ends in their number; a whole object is there or is not.
        await self._abort_all([name for name, checksum in unfinished.items() if "-" in checksum])

    async def close(self) -> None:
        """The client is not ours to close."""

    async def _abort_all(self, names: Sequence[str]) -> None:
        if not names:
            return
        keys = {self._key_prefix + name: name for name in names}
        common = os.path.commonprefix(list(keys))  # noqa: RUF071 - keys are strings, not paths

        async def uploads(_: Alive) -> Any:
            return await self._client.list_multipart_uploads(Bucket=self._bucket, Prefix=common)

        reply = await self._request(f"list unfinished uploads in {self.location}", uploads)
        for upload in reply.get("Uploads", ()):
            if upload["Key"] in keys:
                await self._abort(keys[upload["Key"]], upload["UploadId"])

    async def _put_whole(self, name: str, data: memoryview, sha1: bytes, on_bytes: OnBytes) -> None:
        what = f"store {self._url(name)}"

        async def attempt(alive: Alive) -> None:
            body = Body(data, _both(alive, on_bytes), self._limit)
            call = self._client.put_object(
                **self._object(name),
                Body=body,
                ACL=self._acl.value,
                ChecksumAlgorithm="SHA1",
                ChecksumSHA1=whole_checksum(sha1),
                ContentType="application/octet-stream",
                IfNoneMatch="*",
            )
            await settled(call, lambda: body.sent)

        try:
            await self._request(what, attempt)
        except StoreError as error:
            if error.code != "aws.PreconditionFailed":
                raise
            # Either somebody's object, or our own from an attempt whose answer was lost.
            stored = await self.stat(name)
            if stored is None or not stored.is_the(len(data), whole_checksum(sha1)):
                raise self._exists(name) from error

    async def _put_chunks(self, name: str, data: memoryview, on_bytes: OnBytes) -> None:
        what = f"store {self._url(name)}"

        async def create(_: Alive) -> str:
            call = self._client.create_multipart_upload(
                **self._object(name),
                ACL=self._acl.value,
                ChecksumAlgorithm="SHA1",
                ContentType="application/octet-stream",
            )
            reply = await settled(call, lambda: True)
            return str(reply["UploadId"])

        self._multipart_used = True
        upload_id = await self._request(what, create)
        slots = asyncio.Semaphore(self._multipart.concurrency)

        async def send(number: int, chunk: memoryview, digest: bytes) -> dict[str, Any]:
            encoded = whole_checksum(digest)

            async def attempt(alive: Alive) -> str:
                reply = await self._client.upload_part(
                    **self._object(name),
                    UploadId=upload_id,
                    PartNumber=number,
                    Body=Body(chunk, _both(alive, on_bytes), self._limit),
                    ChecksumSHA1=encoded,
                )
                return str(reply["ETag"])

            async with slots:
                etag = await self._request(f"{what}, chunk {number}", attempt)
            return {"PartNumber": number, "ETag": etag, "ChecksumSHA1": encoded}

        chunks = self._chunks(data)
        if name not in self._chunk_digests:
            await self.checksum(name, data, b"")
        digests = self._chunk_digests.pop(name)
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(send(number, chunk, digest))
                    for number, (chunk, digest) in enumerate(zip(chunks, digests, strict=True), 1)
                ]
        except BaseExceptionGroup as errors:
            raise first_cause(errors) from None
        await self._complete(name, upload_id, [task.result() for task in tasks], len(data))

    async def _complete(self, name: str, upload_id: str, sent: list[dict[str, Any]], size: int) -> None:
        async def complete(_: Alive) -> None:
            call = self._client.complete_multipart_upload(
                **self._object(name),
                UploadId=upload_id,
                MultipartUpload={"Parts": sent},
                IfNoneMatch="*",
            )
            await settled(call, lambda: True)

        try:
            await self._request(f"store {self._url(name)}", complete)
        except StoreError as error:
            if error.code == "aws.PreconditionFailed":
                raise self._exists(name) from error
            # The answer to a completion may have been lost: then the upload is gone and the object is there.
            if error.code != "aws.NoSuchUpload":
                raise
            stored = await self.stat(name)
            if stored is None or stored.size != size:
                raise

    async def _abort(self, name: str, upload_id: str) -> None:
        async def attempt(_: Alive) -> None:
            try:
                await self._client.abort_multipart_upload(**self._object(name), UploadId=upload_id)
            except ClientError as error:
                if error_code(error) != "NoSuchUpload":
                    raise

        await self._request(f"abort the upload of {self._url(name)}", attempt)

    async def _request(self, what: str, attempt: Callable[[Alive], Awaitable[T]]) -> T:
        async def translated(alive: Alive) -> T:
            try:
                return await attempt(alive)
            except SDK_ERRORS as error:
                raise translate(error, what, bucket=self._bucket) from error

        return await with_retries(self._retry, what, translated)

    def _chunks(self, data: memoryview) -> list[memoryview]:
        size = self._multipart.chunk
        return [data[start : start + size] for start in range(0, len(data), size)]

    def _object(self, name: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": self._key_prefix + name}

    def _url(self, name: str) -> str:
        return f"{self.location}/{name}"

    def _exists(self, name: str) -> StoreError:
        self._foreign.add(name)
        return StoreError(
            "store.exists",
            f"cannot store {self._url(name)}: it exists already, with other content",
            hint=f"look with `aws s3 ls {self.location}/`; remove the older bundle or choose another --prefix",
            field="destinations",
        )


def _both(alive: Alive, on_bytes: OnBytes) -> OnBytes:
    def moved(count: int) -> None:
        alive()
        on_bytes(count)

    return moved


def _sha1(data: memoryview | bytes) -> bytes:
    return hashlib.sha1(data, usedforsecurity=False).digest()
