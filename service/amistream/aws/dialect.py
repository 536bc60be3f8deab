"""Learns what an endpoint understands of a PUT, from its refusals, and keeps that as long as its client.

AWS understands all that a job sends. Compatible endpoints may refuse `If-None-Match` or the headers of a checksum, with
any of several codes: the request is then repeated with less. Without the condition the caller looks first whether the
object exists; in place of the SHA-1, S3's older `Content-MD5` protects the body. A bucket's policy may demand that
requests name their encryption, which S3 applies anyway.
"""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from hashlib import md5
from http import HTTPStatus
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from botocore.exceptions import ClientError

from amistream.aws.error_table import TABLE
from amistream.aws.regions import on_aws
from amistream.aws.translate import error_code, http_status
from amistream.errors import StoreError

T = TypeVar("T")

_UNCLEAR = frozenset({"InvalidArgument", "InvalidRequest", "NotImplemented", "BadRequest"})
"""Codes of many causes, by which endpoints refuse what they do not know."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """`condition`: `If-None-Match`; `checksum`: the SHA-1 of the body and its header.

    `encryption`: the bucket's policy demands that a request names it. S3 encrypts so (SSE-S3) in any case.
    """

    condition: bool = True
    checksum: bool = True
    encryption: bool = False

    @property
    def if_absent(self) -> dict[str, str]:
        """The arguments of a request that must not replace an object."""
        return {"IfNoneMatch": "*"} if self.condition else {}

    async def of_body(self, sha1: str, data: bytes | memoryview) -> dict[str, str]:
        """The arguments that protect a body, whose SHA-1 is known in base64, on its way."""
        if self.checksum:
            return {"ChecksumSHA1": sha1}
        digest = await asyncio.to_thread(lambda: md5(data, usedforsecurity=False).digest())
        return {"ContentMD5": b64encode(digest).decode()}

    @property
    def of_object(self) -> dict[str, str]:
        """The arguments of a request that makes an object: its checksum's algorithm and its encryption."""
        algorithm = {"ChecksumAlgorithm": "SHA1"} if self.checksum else {}
        return {**algorithm, **({"ServerSideEncryption": "AES256"} if self.encryption else {})}

    @property
    def lacks(self) -> str:
        """The names of what is not understood."""
        missing = (("If-None-Match", self.condition), ("x-amz-checksum-sha1", self.checksum))
        return " and ".join(name for name, known in missing if not known)


_KNOWN: WeakKeyDictionary[Any, dict[str, Dialect]] = WeakKeyDictionary()
"""By client and bucket; that of no bucket is the first one for all."""


def dialect_of(client: Any, bucket: str) -> Dialect:
    """The dialect in which the bucket is asked, as far as it is known."""
    known = _KNOWN.get(client, {})
    return known.get(bucket) or known.get("") or Dialect()


def speak(client: Any, dialect: Dialect) -> None:
    """Begin with this dialect."""
    _KNOWN[client] = {"": dialect}


async def in_dialect(
    client: Any, bucket: str, ask: Callable[[Dialect], Awaitable[T]], *, makes_object: bool = True
) -> T:
    """Ask in the known dialect, and in others while the endpoint refuses it; keeps the one that it answers to.

    Raises the first error if none helps. A request that `makes_object` and is denied is repeated with its encryption,
    unless an object was stored there without.
    """
    known, first = dialect_of(client, bucket), None
    may_be_policy = makes_object and bucket not in _KNOWN.get(client, {})
    waiting = list(
        dict.fromkeys(
            replace(known, condition=known.condition and condition, checksum=known.checksum and checksum)
            for condition, checksum in ((True, True), (False, True), (True, False), (False, False))
        )
    )
    while waiting:
        dialect = waiting.pop(0)
        try:
            answer = await ask(dialect)
        except Exception as error:
            denied = may_be_policy and error_code(answer_of(error)) == "AccessDenied"
            if not denied and not is_not_understood(client, error):
                raise
            first = first or error
            if denied:
                waiting = [] if dialect.encryption else [replace(dialect, encryption=True)]
        else:
            if makes_object or dialect != known:
                _learn(client, bucket, dialect)
            return answer
    assert first is not None  # noqa: S101 - there is at least one dialect
    raise first


def _learn(client: Any, bucket: str, dialect: Dialect) -> None:
    """Keep what was learnt, and what other requests have learnt meanwhile."""
    other = dialect_of(client, bucket)
    _KNOWN.setdefault(client, {})[bucket] = Dialect(
        condition=dialect.condition and other.condition,
        checksum=dialect.checksum and other.checksum,
        encryption=dialect.encryption or other.encryption,
    )


def answer_of(error: BaseException | None) -> BaseException | None:
    """The SDK's exception behind a `StoreError`."""
    while isinstance(error, StoreError):
        error = error.__cause__
    return error


def is_not_understood(client: Any, error: BaseException) -> bool:
    """True if a compatible endpoint refused the request for something that it may not know."""
    answer = answer_of(error)
    if not isinstance(answer, ClientError) or on_aws(client.meta.endpoint_url):
        return False
    status, code = http_status(answer), error_code(answer)
    is_vague = code in _UNCLEAR or (code not in TABLE and not code.startswith("KMS."))
    return status == HTTPStatus.NOT_IMPLEMENTED or (status == HTTPStatus.BAD_REQUEST and is_vague)
