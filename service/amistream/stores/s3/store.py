"""Stores bundles in S3: parts as objects under a key prefix, verified by S3, readable by EC2.

Every object is sent with the canned ACL, `If-None-Match: *` (nothing is ever overwritten) and its SHA-1, which S3
verifies and keeps. The payload is signed only on request: the SHA-1 in the signed header already covers it. Parts above
a threshold are sent in chunks (`multipart`).

A request that is cancelled after its last byte was sent still waits briefly for its answer: the object may come to
exist, and an undo that ran before that would leave it behind.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any, TypeVar

from botocore.exceptions import ClientError

from amistream.aws.dialect import Dialect, in_dialect, is_not_understood
from amistream.aws.translate import IncompleteReplyError, wanted
from amistream.errors import DeniedError, NotSupportedError, PreconditionError, StoreError, TakenError
from amistream.flow.cancel import await_answer
from amistream.flow.gather import gather_limited
from amistream.flow.rate_limit import RateLimit
from amistream.flow.retry import Alive, RetryPolicy
from amistream.location import S3Location
from amistream.ports.store import (
    Identity,
    Listed,
    ListedUpload,
    Mark,
    OnBytes,
    Stored,
    StoredClaim,
    find,
    whole_checksum,
)
from amistream.ports.unanswered import Unanswered
from amistream.settings import Acl
from amistream.stores.s3.body import Body
from amistream.stores.s3.claims import S3Claims
from amistream.stores.s3.multipart import Multipart, MultipartUploads
from amistream.stores.s3.requests import S3Requests, marking, object_arguments

DELETE_BATCH = 1000
"""Objects that one request can delete. AWS limit."""

DELETES = 8
"""Objects deleted at a time where one request cannot delete many. Guess."""

T = TypeVar("T")


class S3Store:
    """An `ObjectStore` in one folder of a bucket, through one client, which may be shared."""

    def __init__(
        self,
        client: Any,
        location: S3Location,
        *,
        acl: Acl,
        retry: RetryPolicy,
        multipart: Multipart,
        limit: RateLimit | None = None,
        unanswered: Unanswered | None = None,
        mark: Mark | None = None,
    ) -> None:
        """`limit` applies to all request bodies together; `unanswered` has the requests of earlier stores here.

        Every object that is made gets the `mark`.
        """
        self._client = client
        self._place = location
        self._requests = S3Requests(client=client, location=location, retry=retry)
        self.unanswered = unanswered or Unanswered()
        self._uploads = MultipartUploads(self._requests, acl, multipart, limit, self.unanswered, mark=mark)
        self._claims = S3Claims(self._requests, mark)
        self._mark = mark
        self.location = str(location)
        self._acl = acl
        self._limit = limit
        self._foreign: set[str] = set()
        """Names under which another object was found."""

    made_place = None
    """Buckets belong to the user."""
    keeps_marks = True

    async def open(self, *, made_place: Identity | None = None) -> None:
        """Nothing to do."""

    async def checksum(self, name: str, data: memoryview, sha1: bytes) -> str:
        return await self._uploads.checksum(name, data) if self._uploads.are_for(data) else whole_checksum(sha1)

    async def put(self, name: str, data: memoryview, sha1: bytes, on_bytes: OnBytes) -> None:
        try:
            if self._uploads.are_for(data):
                await self._uploads.put(name, data, sha1, on_bytes)
            else:
                await self._put_whole(name, data, sha1, on_bytes)
        except TakenError:
            self._foreign.add(name)
            raise

    async def commit(self, name: str, data: bytes, sha1: bytes) -> None:
        await self.put(name, memoryview(data), sha1, lambda _: None)

    async def stat(self, name: str, *, read: bool = True) -> Stored | None:
        return await self._requests.stat(name, read=read)

    async def read(self, name: str, start: int, length: int) -> bytes:
        return await self._requests.read(name, start, length)

    async def names(self, prefix: str) -> list[str]:
        return [listed.name async for listed in self.listed(prefix, below=False)]

    async def listed(self, prefix: str, *, below: bool = True) -> AsyncIterator[Listed]:
        """See `ObjectStore.listed`."""
        arguments = {"Bucket": self._place.bucket, "Prefix": self._place.key(prefix)}
        if not below:
            arguments["Delimiter"] = "/"
        token = ""
        while True:

            async def attempt(_: Alive, token: str = token) -> tuple[list[Listed], str]:
                page = {"ContinuationToken": token} if token else {}
                reply = await self._client.list_objects_v2(**arguments, **page)
                following = wanted(reply, "NextContinuationToken") if wanted(reply, "IsTruncated") else ""
                if following and following == token:
                    raise IncompleteReplyError("names itself as the next page")
                return [self._listed(entry) for entry in reply.get("Contents", ())], following

            found, token = await self._requests.ask(f"list {self.location}", attempt)
            for each in found:
                yield each
            if not token:
                return

    async def copy(self, name: str, source: S3Location, source_name: str, sha1: bytes) -> str | None:
        """See `ObjectStore.copy`. Some endpoints ignore `If-None-Match` for copies and replace an existing object."""

        async def attempt(_: Alive, dialect: Dialect) -> str | None:
            if not dialect.condition:
                await self._requests.require_free(name)
            call = self._client.copy_object(
                **self._requests.object(name),
                CopySource=object_arguments(source, source_name),
                ACL=self._acl.value,
                MetadataDirective="REPLACE",
                ContentType="application/octet-stream",
                **marking(self._mark),
                **dialect.of_object,
                **dialect.if_absent,
            )
            with self._uploads.awaiting(name):
                reply = await await_answer(call, lambda: True)
            self.unanswered.made(name)
            wanted(reply, "CopyObjectResult", "ETag")
            checksum: str | None = reply["CopyObjectResult"].get("ChecksumSHA1")
            return checksum

        what = f"copy {source}/{source_name} to {self._requests.url(name)}"
        try:
            checksum = await in_dialect(
                self._client,
                self._place.bucket,
                "CopyObject",
                lambda dialect: self._requests.ask(what, partial(attempt, dialect=dialect)),
            )
        except PreconditionError as error:
            stored = await self._requests.stat_whole(name)
            if stored is None or stored.checksum != whole_checksum(sha1):
                self._foreign.add(name)
                raise self._requests.taken(name) from error
            return stored.checksum  # our own, from an attempt whose answer was lost
        if checksum is None and (stored := await self.stat(name, read=False)) is not None:
            checksum = stored.checksum
        return checksum

    async def delete_all(self, names: Sequence[str]) -> None:
        """See `ObjectStore.delete_all`."""
        await self._delete_many([{"Key": self._place.key(name)} for name in names])

    async def version(self, name: str) -> str:
        """See `ObjectStore.version`."""

        async def look(_: Alive) -> str:
            return str((await self._client.head_object(**self._requests.object(name))).get("VersionId", ""))

        return await self._requests.ask(f"look at {self._requests.url(name)}", look)

    async def delete_versions(self, versions: Mapping[str, str]) -> None:
        """See `ObjectStore.delete_versions`."""
        try:
            await self._delete_many(
                [{"Key": self._place.key(name), "VersionId": version} for name, version in versions.items()]
            )
        except DeniedError as error:
            hint = f"allow the credentials s3:DeleteObjectVersion on {self._place.bucket}/*"
            stays = "the objects are deleted, and their versions stay until a lifecycle rule removes them"
            raise error.reworded(hint=f"{hint}; {stays}") from error

    async def _delete_many(self, keys: list[dict[str, str]]) -> None:
        """Delete a thousand with one request, or each with its own where that is not known."""

        async def attempt(_: Alive) -> None:
            batch = keys[:DELETE_BATCH]
            reply = await self._client.delete_objects(Bucket=self._place.bucket, Delete={"Objects": batch})
            if errors := reply.get("Errors"):
                raise ClientError({"Error": errors[0]}, "DeleteObjects")
            deleted = {each.get("Key") for each in reply.get("Deleted", ())}
            if any(each["Key"] not in deleted for each in batch):
                raise IncompleteReplyError(f"names {len(deleted)} of {len(batch)} objects")

        while keys:
            try:
                await self._requests.ask(f"delete objects in {self.location}", attempt)
            except StoreError as error:
                if not isinstance(error, NotSupportedError) and not is_not_understood(self._client, error):
                    raise
                await gather_limited(self._delete_one, keys, DELETES)
                return
            del keys[:DELETE_BATCH]

    async def _delete_one(self, key: dict[str, str]) -> None:
        async def attempt(_: Alive) -> None:
            await self._client.delete_object(Bucket=self._place.bucket, **key)

        await self._requests.ask(f"delete s3://{self._place.bucket}/{key['Key']}", attempt)

    async def delete(self, name: str) -> None:
        async def remove(_: Alive) -> None:
            await self._client.delete_object(**self._requests.object(name))

        own = name not in self._foreign
        await self._uploads.abort(name, unknown_too=own)
        if own:
            await self._requests.ask(f"delete {self._requests.url(name)}", remove)

    async def remove(
        self, name: str, size: int, *checksums: str, progress: Callable[[], object] = lambda: None
    ) -> None:
        found = await find(self, name, size, progress)
        # Not deleted if absent: somebody else's object may appear at this moment.
        if found is None and await self._uploads.abort(name, unknown_too=True):
            found = await find(self, name, size, progress)  # the upload may have been completed at that moment
        if found is None:
            return
        if found.is_the(size, *checksums):
            await self.delete(name)
            self.unanswered.gone(name)
        else:
            await self._uploads.abort(name, unknown_too=False)
            self.unanswered.forget(name)  # a late request does not replace another's object

    async def tidy(self, unfinished: Mapping[str, str]) -> None:
        # Checksums of chunked objects end in the number of chunks; a whole object leaves nothing unfinished.
        await self._uploads.abort_all([name for name, checksum in unfinished.items() if "-" in checksum])

    async def sweep(self, begin: str, belongs: Callable[[str], bool], *, made_before: datetime) -> int:
        old = [
            listed.name
            async for listed in self.listed(begin, below=False)
            if listed.modified < made_before and belongs(listed.name)
        ]
        unfinished = [
            upload
            async for upload in self.uploads(begin)
            if upload.begun_at < made_before and "/" not in upload.name and belongs(upload.name)
        ]
        await self.delete_all(old)
        for upload in unfinished:
            await self._uploads.abort_one(upload)
        return len(old) + len(unfinished)

    def uploads(self, begin: str) -> AsyncIterator[ListedUpload]:
        """See `ObjectStore.uploads`."""
        return self._uploads.listed(begin)

    async def abandon(self, begin: str, belongs: Callable[[str], bool]) -> None:
        await self._uploads.abort_those(begin, belongs)

    async def read_claim(self, name: str) -> StoredClaim | None:
        return await self._claims.read(name)

    async def put_claim(self, name: str, text: bytes, *, instead_of: StoredClaim | None) -> StoredClaim:
        return await self._claims.put(name, text, instead_of)

    async def remove_claim(self, claim: StoredClaim) -> None:
        await self._claims.remove(claim)

    async def close(self) -> None:
        """Nothing to do: the client is closed by its owner."""

    async def _put_whole(self, name: str, data: memoryview, sha1: bytes, on_bytes: OnBytes) -> None:
        what = f"store {self._requests.url(name)}"

        async def send(dialect: Dialect) -> None:
            protection = await dialect.of_body(whole_checksum(sha1), data)

            async def attempt(alive: Alive) -> None:
                if not dialect.condition:
                    await self._requests.require_free(name)
                body = Body(data, alive.counting(on_bytes), self._limit)
                call = self._client.put_object(
                    **self._requests.object(name),
                    Body=body,
                    ACL=self._acl.value,
                    ContentType="application/octet-stream",
                    **marking(self._mark),
                    **protection,
                    **dialect.of_object,
                    **dialect.if_absent,
                )
                with self._uploads.awaiting(name, lambda: body.sent):
                    reply = await await_answer(call, lambda: body.sent)
                self.unanswered.made(name)
                wanted(reply, "ETag")

            await self._requests.ask(what, attempt)

        try:
            await in_dialect(self._client, self._place.bucket, "PutObject", send)
        except PreconditionError:
            # Either another object, or this one from an attempt whose answer was lost.
            await self._requests.check_own(name, len(data), whole_checksum(sha1))

    def _listed(self, entry: Any) -> Listed:
        name = wanted(entry, "Key").removeprefix(self._place.key(""))
        return Listed(name=name, size=wanted(entry, "Size"), modified=wanted(entry, "LastModified"))
