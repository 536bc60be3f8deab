"""Puts, replaces and removes claims in S3: small objects, each change of which has a condition.

A claim is put with `If-None-Match: *` and replaced with `If-Match` on the ETag that was read, so that of several hosts
exactly one succeeds. An endpoint that ignores a condition would let all of them succeed: before the first claim in a
bucket is relied on, both are tried in vain, and the marks of objects are looked for.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any
from weakref import WeakKeyDictionary

from botocore.exceptions import ClientError

from amistream.aws.dialect import Dialect, in_dialect, is_not_understood
from amistream.aws.translate import http_status, wanted
from amistream.errors import NoObjectError, NotSupportedError, PreconditionError, RivalError, StoreError
from amistream.flow.cancel import await_answer
from amistream.flow.retry import Alive
from amistream.ports.store import LARGEST_CLAIM, Mark, StoredClaim, sha1_of, whole_checksum
from amistream.stores.s3.requests import S3Requests, mark_in, marking, read_body

_NEVER = '"00000000000000000000000000000000"'
"""An ETag that no object has."""
_TRIED: WeakKeyDictionary[Any, set[str]] = WeakKeyDictionary()
"""Buckets, by client, that keep conditions and marks."""


class S3Claims:
    """The claims at one location. Every method raises `StoreError`."""

    def __init__(self, requests: S3Requests, mark: Mark | None) -> None:
        self._requests = requests
        self._client = requests.client
        self._bucket = requests.location.bucket
        self._mark = mark

    async def read(self, name: str) -> StoredClaim | None:
        """See `Store.read_claim`."""
        found = await self._read(name)
        return found[0] if found is not None else None

    async def put(self, name: str, text: bytes, instead_of: StoredClaim | None) -> StoredClaim:
        """See `Store.put_claim`."""
        condition = {"IfNoneMatch": "*"} if instead_of is None else {"IfMatch": instead_of.version}
        try:
            put = await self._put(name, text, condition)
        except (PreconditionError, NoObjectError) as error:
            # It may be this one, from an attempt whose answer was lost.
            now = await self.read(name)
            if now is None or now.text != text:
                raise RivalError(
                    "claim.rival",
                    f"cannot claim {self._requests.url(name)}: another process has claimed it, or left it, just now",
                    field="destinations",
                ) from error
            put = now
        if self._bucket not in _TRIED.setdefault(self._client, set()):
            await self._try_conditions(put)
            _TRIED[self._client].add(self._bucket)
        return put

    async def remove(self, claim: StoredClaim) -> None:
        """See `Store.remove_claim`. Where a deletion has no condition, one that comes at this moment goes, too."""
        now = await self.read(claim.name)
        if now is None or now.version != claim.version:
            return
        try:
            await self._delete(claim.name, IfMatch=claim.version)
        except (PreconditionError, NoObjectError):
            pass
        except StoreError as error:
            if not isinstance(error, NotSupportedError) and not is_not_understood(self._client, error):
                raise
            await self._delete(claim.name)

    async def _read(self, name: str) -> tuple[StoredClaim, Mark | None] | None:
        async def attempt(alive: Alive) -> tuple[StoredClaim, Mark | None] | None:
            try:
                reply = await self._client.get_object(**self._requests.object(name))
            except ClientError as error:
                if http_status(error) == HTTPStatus.NOT_FOUND:
                    return None
                raise
            if wanted(reply, "ContentLength") > LARGEST_CLAIM:
                reply["Body"].close()
                text = b""
            else:
                text = await read_body(reply, alive)
            claim = StoredClaim(
                name=name, text=text, version=str(wanted(reply, "ETag")), made_at=reply.get("LastModified")
            )
            return claim, mark_in(reply)

        return await self._requests.ask(f"read the claim {self._requests.url(name)}", attempt)

    async def _put(self, name: str, text: bytes, condition: dict[str, str]) -> StoredClaim:
        async def send(dialect: Dialect) -> StoredClaim:
            if not dialect.condition:
                raise self._unfit(name, "it does not know If-None-Match and If-Match")
            protection = await dialect.of_body(whole_checksum(sha1_of(text)), text)

            async def attempt(_: Alive) -> StoredClaim:
                call = self._client.put_object(
                    **self._requests.object(name),
                    Body=text,
                    ContentType="application/json",
                    **condition,
                    **marking(self._mark),
                    **protection,
                    **dialect.of_object,
                )
                reply = await await_answer(call, lambda: True)
                return StoredClaim(name=name, text=text, version=str(wanted(reply, "ETag")))

            return await self._requests.ask(f"claim {self._requests.url(name)}", attempt)

        return await in_dialect(self._client, self._bucket, "PutObject", send)

    async def _try_conditions(self, claim: StoredClaim) -> None:
        """Raise `NotSupportedError` if the endpoint ignores a condition, or marks. The claim has the same text then."""
        for named, condition in (("If-Match", {"IfMatch": _NEVER}), ("If-None-Match", {"IfNoneMatch": "*"})):
            try:
                await self._put(claim.name, claim.text, condition)
            except (PreconditionError, NoObjectError):
                continue
            except StoreError as error:
                if not isinstance(error, NotSupportedError) and not is_not_understood(self._client, error):
                    raise
            await self._delete(claim.name)
            raise self._unfit(claim.name, f"it does not know {named}")
        found = await self._read(claim.name)
        if found is not None and found[0].version == claim.version and found[1] != self._mark:
            await self.remove(claim)
            raise self._unfit(claim.name, "it does not keep the metadata of objects")

    async def _delete(self, name: str, **condition: str) -> None:
        async def attempt(_: Alive) -> None:
            await self._client.delete_object(**self._requests.object(name), **condition)

        await self._requests.ask(f"remove the claim {self._requests.url(name)}", attempt)

    def _unfit(self, name: str, why: str) -> NotSupportedError:
        return NotSupportedError(
            "claim.unsupported",
            f"cannot claim {self._requests.url(name)}: the endpoint cannot keep two hosts apart, because {why}",
            hint="run jobs of a queue at AWS or at an endpoint with conditional writes; jobs without a queue run here",
            field="destinations",
        )
