"""Sends requests about the objects at one S3 location: repeats them and translates their failures."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Any, TypeVar

from botocore.exceptions import ClientError, ConnectionClosedError

from amistream.aws.translate import IncompleteReplyError, asking, http_status, wanted
from amistream.errors import PreconditionError, TakenError
from amistream.flow.retry import Alive, RetryPolicy, with_retries
from amistream.location import S3Location
from amistream.ports.store import NO_CHECKSUM, PIECE, Mark, Stored, whole_checksum
from amistream.values import LARGEST_PART, MIB

T = TypeVar("T")

_JOB, _RUN, _REQUEST = "amistream-job", "amistream-run", "amistream-request"
"""Names of an object's metadata."""


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Requests:
    """Requests through one client, which may be shared."""

    client: Any
    location: S3Location
    retry: RetryPolicy

    def url(self, name: str) -> str:
        return f"{self.location}/{name}"

    def object(self, name: str) -> dict[str, str]:
        """Arguments of an SDK call that name the object."""
        return object_arguments(self.location, name)

    async def ask(self, what: str, attempt: Callable[[Alive], Awaitable[T]]) -> T:
        """Run `attempt` with retries. Raises `StoreError` with the message "cannot `what`: why"."""

        async def translated(alive: Alive) -> T:
            async with asking(what, bucket=self.location.bucket):
                return await attempt(alive)

        return await with_retries(self.retry, what, translated)

    async def stat(self, name: str, *, read: bool = True) -> Stored | None:
        """See `Store.stat`."""
        stored = await self._head(name)
        if stored is None or stored.checksum is not None or not read:
            return stored
        return await self._hashed(name, stored)

    async def stat_whole(self, name: str) -> Stored | None:
        """Like `stat`, with the checksum of the whole object, which is read if only that of its chunks is known."""
        stored = await self._head(name)
        if stored is None or "-" not in (stored.checksum or "-"):
            return stored
        return await self._hashed(name, stored)

    async def _hashed(self, name: str, stored: Stored) -> Stored:
        if stored.size > LARGEST_PART:
            return replace(stored, checksum=NO_CHECKSUM)
        return replace(stored, checksum=whole_checksum(await self._sha1(name, stored.size)))

    async def read(self, name: str, start: int, length: int) -> bytes:
        """See `Store.read`."""

        async def attempt(alive: Alive) -> bytes:
            reply = await self.client.get_object(**self.object(name), Range=f"bytes={start}-{start + length - 1}")
            return await read_body(reply, alive, lambda: _check_range(reply, start, length))

        return await self.ask(f"read {self.url(name)}", attempt)

    async def _sha1(self, name: str, size: int) -> bytes:
        digest = hashlib.sha1(usedforsecurity=False)
        for start in range(0, size, PIECE):
            piece = await self.read(name, start, min(PIECE, size - start))
            await asyncio.to_thread(digest.update, piece)
        return digest.digest()

    async def _head(self, name: str) -> Stored | None:
        async def head(_: Alive) -> Stored | None:
            try:
                reply = await self.client.head_object(**self.object(name), ChecksumMode="ENABLED")
            except ClientError as error:
                if http_status(error) == HTTPStatus.NOT_FOUND:
                    return None
                raise
            wanted(reply, "ETag")
            return Stored(wanted(reply, "ContentLength"), reply.get("ChecksumSHA1"), mark_in(reply))

        return await self.ask(f"look at {self.url(name)}", head)

    async def require_free(self, name: str) -> None:
        """For an endpoint without `If-None-Match`: raise `PreconditionError`, as its answer would, for an object."""
        if await self.stat(name, read=False) is not None:
            raise PreconditionError("store.exists", f"cannot store {self.url(name)}: it exists already")

    async def check_own(self, name: str, size: int, *checksums: str) -> None:
        """Raise `TakenError` unless the object that S3 says exists has this size and one of these checksums."""
        # Other objects are not read: anybody may put one of any size there.
        stored = await self.stat(name, read=False)
        if stored is not None and stored == Stored(size, None):
            stored = await self.stat(name)
        if stored is None or not stored.is_the(size, *checksums):
            raise self.taken(name)

    def taken(self, name: str) -> TakenError:
        """Make the error for a name under which another object is stored."""
        return TakenError(
            "store.exists",
            f"cannot store {self.url(name)}: it exists already, with other content",
            hint=f"look with `aws s3 ls {self.location}/`; remove the older bundle or choose another --prefix",
            field="destinations",
        )


def _check_range(reply: Any, start: int, length: int) -> None:
    """Raise `IncompleteReplyError` for another range of an object than the one wanted, before any of it is read."""
    size = int(wanted(reply, "ContentLength"))
    wanted(reply, "ETag")
    if reply["ResponseMetadata"]["HTTPStatusCode"] == HTTPStatus.OK:
        # An endpoint without ranges sends the whole object.
        shown = (0, size, size)
    else:
        found = re.fullmatch(r"bytes ([0-9]+)-([0-9]+)/([0-9]+)", wanted(reply, "ContentRange"))
        if found is None:
            raise IncompleteReplyError("has no valid ContentRange")
        shown = (int(found[1]), int(found[2]) + 1, int(found[3]))
    first, end, total = shown
    if first != start or end != min(start + length, total) or size != end - first:
        raise IncompleteReplyError(f"has bytes {first} to {end} of {total}, where {length} from {start} on were wanted")


def object_arguments(location: S3Location, name: str) -> dict[str, str]:
    return {"Bucket": location.bucket, "Key": location.key(name)}


async def read_body(reply: Any, alive: Alive, check: Callable[[], object] = lambda: None) -> bytes:
    """Read an object's body after a `check` of its headers, which may raise."""
    pieces = []
    try:
        async with reply["Body"] as body:
            check()
            async for piece in body.iter_chunks(MIB):
                alive()
                pieces.append(piece)
    except Exception as error:
        # If a reply ends too early, the SDK passes the HTTP library's own error on.
        if not type(error).__module__.startswith("aiohttp"):
            raise
        raise ConnectionClosedError(endpoint_url="the endpoint", error=error) from error
    return b"".join(pieces)


def marking(mark: Mark | None) -> dict[str, Any]:
    """The arguments of a request that makes an object of a named job."""
    if mark is None:
        return {}
    request = {_REQUEST: mark.request} if mark.request else {}
    return {"Metadata": {_JOB: mark.job, _RUN: mark.run, **request}}


def mark_in(reply: Any) -> Mark | None:
    """The mark of the object that a reply is about."""
    found = {key.lower(): value for key, value in reply.get("Metadata", {}).items()}
    if _JOB not in found:
        return None
    return Mark(job=found[_JOB], run=found.get(_RUN, ""), request=found.get(_REQUEST, ""))
