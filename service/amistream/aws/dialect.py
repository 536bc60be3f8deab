"""Learns what an endpoint understands of a PUT, from its refusals, and keeps that until the next job's probe.

AWS understands all that a job sends. Compatible endpoints may refuse `If-None-Match` or the headers of a checksum, with
any of several codes: the request is then repeated with less. Without the condition the caller looks first whether the
object exists; in place of the SHA-1, S3's older `Content-MD5` protects the body. A bucket's policy may demand that
requests name their encryption, which S3 applies anyway.
"""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
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

    def and_of(self, other: Dialect) -> Dialect:
        """The dialect that lacks what either of them lacks."""
        return Dialect(
            condition=self.condition and other.condition,
            checksum=self.checksum and other.checksum,
            encryption=self.encryption or other.encryption,
        )


@dataclass(slots=True)
class _Known:
    """Knowledge of one client's endpoint, of each of its buckets."""

    first: Dialect
    learnt: dict[tuple[str, str], Dialect] = field(default_factory=dict)
    """By bucket, and by operation where it is one of `_APART`."""
    answered: set[tuple[str, str]] = field(default_factory=set)
    """Buckets and operations that were answered, in the dialect that is known since."""


_KNOWN: WeakKeyDictionary[Any, _Known] = WeakKeyDictionary()
_MAKES_OBJECT = {"PutObject", "CreateMultipartUpload", "CopyObject"}
_APART = {"CopyObject", "CompleteMultipartUpload"}
"""Endpoints that know the condition of PutObject may not know it here; PutObject must keep it."""


def dialect_of(client: Any, bucket: str, operation: str = "PutObject") -> Dialect:
    """The dialect in which the bucket is asked, as far as it is known."""
    known = _known(client)
    found = known.first
    for key in {(bucket, ""), _key(bucket, operation)} & known.learnt.keys():
        found = found.and_of(known.learnt[key])
    return found


def speak(client: Any, dialect: Dialect) -> None:
    """Begin with this dialect."""
    _KNOWN[client] = _Known(dialect)


def learn_anew(client: Any, bucket: str) -> None:
    """Forget what was learnt of the bucket: its policy or its endpoint may be another since."""
    known = _known(client)
    known.learnt = {key: dialect for key, dialect in known.learnt.items() if key[0] != bucket}
    known.answered = {key for key in known.answered if key[0] != bucket}


async def in_dialect(client: Any, bucket: str, operation: str, ask: Callable[[Dialect], Awaitable[T]]) -> T:
    """Ask in the known dialect, and in others while the endpoint refuses it; keeps the one that it answers to.

    Raises the first error if none helps. A request that makes an object and is denied is repeated with its encryption,
    unless an object was stored there without. A dialect that the operation was once answered in is not given up: what
    the endpoint refuses then, perhaps by a proxy's stray answer, is asked once more.
    """
    known, first = dialect_of(client, bucket, operation), None
    makes_object = operation in _MAKES_OBJECT
    may_be_policy = makes_object and _key(bucket, operation) not in _known(client).learnt
    lesser = dict.fromkeys(
        replace(known, condition=known.condition and condition, checksum=known.checksum and checksum)
        for condition, checksum in ((True, True), (False, True), (True, False), (False, False))
    )
    waiting = [known, known] if (bucket, operation) in _known(client).answered else list(lesser)
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
                _learn(client, bucket, operation, dialect)
            _known(client).answered.add((bucket, operation))
            return answer
    assert first is not None  # noqa: S101 - there is at least one dialect
    raise first


def _key(bucket: str, operation: str) -> tuple[str, str]:
    return bucket, operation if operation in _APART else ""


def _known(client: Any) -> _Known:
    return _KNOWN.setdefault(client, _Known(Dialect()))


def _learn(client: Any, bucket: str, operation: str, dialect: Dialect) -> None:
    """Keep what was learnt, and what other requests have learnt meanwhile."""
    learnt, key = _known(client).learnt, _key(bucket, operation)
    learnt[key] = dialect.and_of(learnt.get(key, dialect))


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
