"""Sends large objects to S3 in chunks, each with its own SHA-1 and its own retries; never replaces an object.

An unfinished upload costs money and is not listed as an object. So every upload begun here is tracked until it is
completed or aborted. Uploads of other programs under the same name are left alone; only their ids differ.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from http import HTTPStatus
from typing import Any

from botocore.exceptions import ClientError, ConnectTimeoutError, EndpointConnectionError

from amistream.aws.dialect import Dialect, in_dialect
from amistream.aws.translate import IncompleteReplyError, error_code, http_status, wanted
from amistream.errors import NoUploadError, PreconditionError, StoreError
from amistream.flow.cancel import await_answer
from amistream.flow.gather import task_group
from amistream.flow.rate_limit import RateLimit
from amistream.flow.retry import Alive
from amistream.ports.store import ListedUpload, Mark, OnBytes, sha1_of, whole_checksum
from amistream.ports.unanswered import Unanswered
from amistream.settings import Acl
from amistream.stores.s3.body import Body
from amistream.stores.s3.requests import S3Requests, marking

_GATEWAY_GAVE_UP = frozenset({HTTPStatus.BAD_GATEWAY, HTTPStatus.GATEWAY_TIMEOUT})
"""Such an answer says nothing about the endpoint behind the gateway."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Multipart:
    """Objects over `threshold` bytes are sent in chunks of `chunk` bytes, `concurrency` at a time."""

    threshold: int
    chunk: int
    concurrency: int


class MultipartUploads:
    """The multipart uploads of one store."""

    def __init__(
        self,
        requests: S3Requests,
        acl: Acl,
        figures: Multipart,
        limit: RateLimit | None,
        unanswered: Unanswered,
        *,
        mark: Mark | None,
    ) -> None:
        self._requests = requests
        self.unanswered = unanswered
        self._client = requests.client
        self._acl = acl
        self._figures = figures
        self._limit = limit
        self._mark = mark
        self._digests: dict[str, list[bytes]] = {}
        """SHA-1 of each chunk of objects whose checksum was computed and that were not sent yet."""
        self._begun: dict[str, set[str]] = defaultdict(set)
        """Ids of uploads that were begun here and are neither completed nor aborted, by object name."""
        self._unanswered: Counter[str] = Counter()
        """Number of uploads that may have been begun here although no id came back, by object name."""

    def are_for(self, data: memoryview) -> bool:
        """Decide if an object of this size is sent in chunks."""
        return len(data) > self._figures.threshold

    @contextmanager
    def awaiting(self, name: str, is_sent: Callable[[], bool] = lambda: True) -> Iterator[None]:
        """Count the block's request in `unanswered` if it was sent and the block ends without an answer to it."""
        try:
            yield
        except (EndpointConnectionError, ConnectTimeoutError):
            raise  # never sent
        except BaseException as error:
            answered = isinstance(error, ClientError) and http_status(error) not in _GATEWAY_GAVE_UP
            if is_sent() and not answered:
                self.unanswered.given_up(name)
            raise

    async def checksum(self, name: str, data: memoryview) -> str:
        """Compute S3's checksum of the chunks' checksums, with their number."""
        digests = self._digests[name] = await asyncio.to_thread(lambda: list(map(sha1_of, self._chunks(data))))
        return _composite(digests)

    async def put(self, name: str, data: memoryview, sha1: bytes, on_bytes: OnBytes) -> None:
        """Store the object. Raises `StoreError`; a failed upload stays until `abort`."""
        if name not in self._digests:
            await self.checksum(name, data)
        digests = self._digests.pop(name)
        upload_id = await self._begin(name)
        slots = asyncio.Semaphore(self._figures.concurrency)

        async def send(number: int, chunk: memoryview, digest: bytes) -> dict[str, Any]:
            checksum = whole_checksum(digest)

            async def send_in(dialect: Dialect) -> dict[str, Any]:
                protection = await dialect.of_body(checksum, chunk)

                async def attempt(alive: Alive) -> str:
                    reply = await self._client.upload_part(
                        **self._requests.object(name),
                        UploadId=upload_id,
                        PartNumber=number,
                        Body=Body(chunk, alive.counting(on_bytes), self._limit),
                        **protection,
                    )
                    return str(wanted(reply, "ETag"))

                etag = await self._requests.ask(f"store {self._requests.url(name)}, chunk {number}", attempt)
                return {"PartNumber": number, "ETag": etag, **({"ChecksumSHA1": checksum} if dialect.checksum else {})}

            async with slots:
                return await in_dialect(self._client, self._requests.location.bucket, "UploadPart", send_in)

        async with task_group() as group:
            tasks = [
                group.create_task(send(number, chunk, digest))
                for number, (chunk, digest) in enumerate(zip(self._chunks(data), digests, strict=True), 1)
            ]
        checksums = (_composite(digests), whole_checksum(sha1))
        await self._complete(name, upload_id, [task.result() for task in tasks], len(data), checksums)
        self._begun[name].discard(upload_id)
        if self._unanswered[name]:
            await self.abort_all([name])

    async def abort(self, name: str, *, unknown_too: bool) -> bool:
        """Abort the unfinished uploads of the object that were begun here; returns whether there was one.

        With `unknown_too` the name belongs to this job: if an id may have been lost, abort all uploads under the name.
        """
        begun = list(self._begun[name])
        for upload_id in begun:
            await self._abort(name, upload_id)
        if unknown_too and self._unanswered[name]:
            await self.abort_all([name])
        return bool(begun)

    async def abort_all(self, names: Sequence[str]) -> None:
        """Abort every unfinished upload of these objects. The caller knows that all of them belong to this job."""
        if not names:
            return
        common = os.path.commonprefix(list(names))  # noqa: RUF071 - names are strings, not paths
        await self.abort_those(common, set(names).__contains__)

    async def abort_those(self, begin: str, belongs: Callable[[str], bool]) -> None:
        """Abort every unfinished upload of an object whose name, which begins so, belongs to this job."""
        async for upload in self.listed(begin):
            if belongs(upload.name):
                await self.abort_one(upload)

    async def abort_one(self, upload: ListedUpload) -> None:
        await self._abort(upload.name, upload.upload_id)

    async def listed(self, begin: str) -> AsyncIterator[ListedUpload]:
        """List every unfinished upload of an object whose name begins so, a page at a time."""
        folder = self._requests.location.key("")
        common = f"{folder}{begin}"
        position: dict[str, str] = {}

        async def uploads(_: Alive, position: dict[str, str]) -> Any:
            reply = await self._client.list_multipart_uploads(
                Bucket=self._requests.location.bucket, Prefix=common, **position
            )
            following: dict[str, str] = {}
            if wanted(reply, "IsTruncated"):
                following["KeyMarker"] = wanted(reply, "NextKeyMarker")
                following["UploadIdMarker"] = wanted(reply, "NextUploadIdMarker")
            if following and following == position:
                raise IncompleteReplyError("names itself as the next page")
            begun = [
                (wanted(each, "Key"), wanted(each, "UploadId"), each.get("Initiated", datetime.now(UTC)))
                for each in reply.get("Uploads", ())
            ]
            return begun, following

        while True:
            what = f"list unfinished uploads in {self._requests.location}"
            begun, position = await self._requests.ask(what, partial(uploads, position=position))
            for key, upload_id, begun_at in begun:
                if key.startswith(folder):
                    yield ListedUpload(name=key.removeprefix(folder), upload_id=upload_id, begun_at=begun_at)
            if not position:
                return

    async def _begin(self, name: str) -> str:
        async def begin(_: Alive, dialect: Dialect) -> str:
            call = self._client.create_multipart_upload(
                **self._requests.object(name),
                ACL=self._acl.value,
                ContentType="application/octet-stream",
                **marking(self._mark),
                **dialect.of_object,
            )
            self._unanswered[name] += 1
            try:
                with self.awaiting(name):
                    reply = await await_answer(call, lambda: True)
            except ClientError as error:
                # Despite a server error the endpoint may have begun the upload.
                self._unanswered[name] -= http_status(error) < HTTPStatus.INTERNAL_SERVER_ERROR
                raise
            upload_id = str(wanted(reply, "UploadId"))
            self._unanswered[name] -= 1
            self.unanswered.made(name)
            self._begun[name].add(upload_id)
            return upload_id

        what = f"store {self._requests.url(name)}"
        return await in_dialect(
            self._client,
            self._requests.location.bucket,
            "CreateMultipartUpload",
            lambda dialect: self._requests.ask(what, partial(begin, dialect=dialect)),
        )

    async def _complete(
        self, name: str, upload_id: str, sent: list[dict[str, Any]], size: int, checksums: Sequence[str]
    ) -> None:
        async def complete_in(dialect: Dialect) -> None:
            async def complete(_: Alive) -> None:
                if not dialect.condition:
                    await self._requests.require_free(name)
                call = self._client.complete_multipart_upload(
                    **self._requests.object(name),
                    UploadId=upload_id,
                    MultipartUpload={"Parts": sent},
                    **dialect.if_absent,
                )
                wanted(await await_answer(call, lambda: True), "ETag")

            await self._requests.ask(f"store {self._requests.url(name)}", complete)

        try:
            await in_dialect(self._client, self._requests.location.bucket, "CompleteMultipartUpload", complete_in)
        except PreconditionError:
            # Either another object, or this one from a completion whose answer was lost.
            await self._requests.check_own(name, size, *checksums)
        except NoUploadError as error:
            try:
                await self._requests.check_own(name, size, *checksums)
            except StoreError:
                raise error from None

    async def _abort(self, name: str, upload_id: str) -> None:
        async def abort(_: Alive) -> bool:
            try:
                await self._client.abort_multipart_upload(**self._requests.object(name), UploadId=upload_id)
            except ClientError as error:
                if error_code(error) != "NoSuchUpload":
                    raise
                return False  # it may be an object by now
            return True

        if await self._requests.ask(f"abort the upload of {self._requests.url(name)}", abort):
            self.unanswered.gone(name)
        self._begun[name].discard(upload_id)

    def _chunks(self, data: memoryview) -> list[memoryview]:
        size = self._figures.chunk
        return [data[start : start + size] for start in range(0, len(data), size)]


def _composite(digests: Sequence[bytes]) -> str:
    return f"{whole_checksum(sha1_of(b''.join(digests)))}-{len(digests)}"
