"""Translates the SDK's exceptions into `StoreError`s with cause and fix, by `error_table`. The only such place.

A server's own message is passed on only where a row says so, or where there is no row, and then without secrets: the
reply to a wrong signature repeats the signed request, session token included.
"""

from __future__ import annotations

import asyncio
import errno
import re
import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from socket import gaierror
from typing import Any

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConfigNotFound,
    ConfigParseError,
    ConnectionClosedError,
    ConnectTimeoutError,
    HTTPClientError,
    IncompleteReadError,
    InvalidConfigError,
    NoCredentialsError,
    NoRegionError,
    PartialCredentialsError,
    ProfileNotFound,
    ProxyConnectionError,
    ReadTimeoutError,
    SSLError,
)
from botocore.exceptions import (
    ConnectionError as SdkConnectionError,
)

from amistream.aws.ebs_errors import KMS_DENIED, SLOW_BODY, WRITE_TIMEOUT
from amistream.aws.error_row import Row
from amistream.aws.error_table import CLASSES, ENABLE_ACLS, NEEDS, OTHER_PARTITIONS, TABLE
from amistream.aws.messaging_errors import RENAMED
from amistream.errors import StoreError

__all__ = [
    "CONFIGURATION_ERRORS",
    "ENABLE_ACLS",
    "IncompleteReplyError",
    "ProviderError",
    "asking",
    "error_code",
    "http_status",
    "is_unreadable",
    "translate",
    "wanted",
]


class ProviderError(BotoCoreError):  # type: ignore[misc, unused-ignore]  # untyped, where no stubs are installed
    """A provider of credentials fails. `place` names it; neither `said` nor `fix` has anything that it gave."""

    fmt = "{said}"

    def __init__(self, *, said: str, place: str = "", fix: str = "", transient: bool = False) -> None:
        super().__init__(said=f"{place}: {said}" if place else said)
        self.place, self.fix, self.transient = place, fix, transient


class IncompleteReplyError(Exception):
    """A reply says success, and lacks its content or contradicts itself. Raised within `asking`."""


CONFIGURATION_ERRORS = (ProfileNotFound, ConfigNotFound, ConfigParseError, InvalidConfigError)
"""About the SDK's configuration files, before any provider is asked."""

_BY_TYPE: tuple[tuple[type[Exception] | tuple[type[Exception], ...], str], ...] = (
    ((NoCredentialsError, PartialCredentialsError), "credentials"),
    (ProviderError, "broken_credentials"),
    (CONFIGURATION_ERRORS, "configuration"),
    (NoRegionError, "region"),
    ((TimeoutError, ConnectTimeoutError, ReadTimeoutError), "timeout"),
    ((ConnectionClosedError, IncompleteReadError), "broken_off"),
    (IncompleteReplyError, "incomplete"),
)

_BY_STATUS = {
    301: "PermanentRedirect",
    307: "TemporaryRedirect",
    400: "BadRequest",
    403: "AccessDenied",
    404: "NoSuchKey",
    405: "MethodNotAllowed",
    407: "ProxyAuthenticationRequired",
    409: "OperationAborted",
    412: "PreconditionFailed",
    429: "TooManyRequests",
    500: "InternalError",
    501: "NotImplemented",
    502: "BadGateway",
    503: "ServiceUnavailable",
    504: "GatewayTimeout",
}
"""Codes for replies without a body, such as every reply to HEAD."""

_PROXY_STATUS = {
    **dict.fromkeys((400, 401, 403, 404, 405), "proxy_forbids"),
    407: "ProxyAuthenticationRequired",
    **dict.fromkeys((500, 502, 503, 504), "proxy_failed"),
}
"""Rows for a proxy's answer to CONNECT."""

_NAMED_ACTION = re.compile(r"not authorized to perform: ([a-z0-9-]+:\w+)")
_EXPLICIT_DENY = re.compile(r"explicit deny(?: in an? ([a-z][a-z -]*? policy))?")
_LARGEST_SKEW = timedelta(minutes=15)
"""AWS limit, of S3."""

_NOT_EBS = (400, 404, 405, 501)
"""Answers without a code of an endpoint that does not know the EBS direct APIs."""
_SIGNATURE_CODES = ("SignatureDoesNotMatch", "InvalidSignatureException")
_CLOCK_MESSAGES = ("Signature expired", "Signature not yet current")
"""Beginnings of STS's SignatureDoesNotMatch when a clock is wrong."""

_URL_PRIVATE = re.compile(r"(?<=//)[^/\s]*@|(?<=\S)\?\S+")
"""User and password, and the query, of a URL."""

_PRIVATE = re.compile(
    r"[\w-]*(?:signature|credential|token|secret|key[ _-]?id|password)[\w-]*\s*[=:]\s*\S+"
    r"|\b(?-i:AKIA|ASIA)[A-Z0-9]{8,}"
    r"|\beyJ[\w.-]+"  # web tokens
    r"|[a-z0-9+/=]{32,}",  # digests, keys, encoded messages
    re.IGNORECASE,
)
_LONGEST_QUOTE = 300
_OURS = (ValueError, TypeError, ssl.SSLError, FileNotFoundError, IsADirectoryError, PermissionError)
"""Failures before anything is sent: a header, an address or a file of certificates that cannot be used."""
_CUT = (errno.ECONNRESET, errno.ECONNABORTED, errno.EPIPE)


def error_code(error: BaseException | None) -> str:
    """The AWS error code of an SDK exception, or ''. A HEAD reply has no body: its status stands for the code.

    Errors of the EBS direct APIs may have a reason, which follows after a dot.
    """
    if not isinstance(error, ClientError):
        return ""
    found = error.response.get("Error", {})
    # SQS gives the name of its older protocol as the code, and its own beside it.
    code = str(found.get("QueryErrorCode") or found.get("Code", ""))
    code = RENAMED.get((error.operation_name, code), code)
    if not code or code.isdigit():
        if NEEDS.get(error.operation_name, "").startswith("ebs:") and http_status(error) in _NOT_EBS:
            return "MethodNotAllowed"
        code = _BY_STATUS.get(http_status(error), code)
        if code == "NoSuchKey" and error.operation_name.endswith("Bucket"):
            return "NoSuchBucket"
        return "RequestTimeTooSkewed" if code == "AccessDenied" and _is_skewed(error) else code
    if code in _SIGNATURE_CODES and _reply(error).startswith(_CLOCK_MESSAGES):
        return "RequestTimeTooSkewed"
    if code == "ValidationException" and _reply(error).startswith(SLOW_BODY):
        return WRITE_TIMEOUT
    reason = error.response.get("Reason")
    return f"{code}.{reason}" if isinstance(reason, str) and re.fullmatch(r"[A-Z_]{1,64}", reason) else code


def http_status(error: BaseException) -> int:
    if not isinstance(error, ClientError):
        return 0
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def wanted(reply: Any, *names: str) -> Any:
    """Read a value that every right reply has. Raises `IncompleteReplyError` without it."""
    for name in names:
        value = reply.get(name)
        if value is None:
            raise IncompleteReplyError(f"has no {name}")
        reply = value
    return reply


def is_unreadable(error: object) -> bool:
    """True for an answer that the SDK's parser, or `wanted`, could not read."""
    # A parser that was never loaded has raised nothing, and loading it takes long.
    parsers = sys.modules.get("botocore.parsers")
    return isinstance(error, IncompleteReplyError) or (
        parsers is not None and isinstance(error, parsers.ResponseParserError)
    )


@asynccontextmanager
async def asking(what: str, timeout_s: float | None = None, *, bucket: str = "") -> AsyncIterator[None]:
    """Limit the time of a request, and raise its failure as `StoreError` "cannot `what`: why"."""
    try:
        async with asyncio.timeout(timeout_s):
            yield
    except Exception as error:
        if not isinstance(error, ClientError | BotoCoreError | TimeoutError) and not is_unreadable(error):
            raise
        raise translate(error, what, bucket=bucket) from error


def translate(error: BaseException, what: str, *, bucket: str = "") -> StoreError:
    """A `StoreError` "cannot `what`: why", transient where a repeat may help."""
    if isinstance(error, ClientError):
        return _from_reply(error, what, bucket)
    key = _key_of(error)
    if not key:
        raise error
    row = TABLE[key]
    cause = row.cause.replace("{where}", _where(error)).replace("{said}", _said_by_sdk(error))
    ours = error if isinstance(error, ProviderError) else None
    return CLASSES.get(key, StoreError)(
        f"aws.{row.shown_as or key}",
        f"cannot {what}: {cause}",
        hint=(ours and ours.fix) or row.fix,
        field=row.field,
        transient=row.transient or bool(ours and ours.transient),
    )


def _from_reply(error: ClientError, what: str, bucket: str) -> StoreError:
    code, status, reply = error_code(error), http_status(error), _reply(error)
    family = code.partition(".")[0]
    row = TABLE.get(code) or TABLE.get(family) or TABLE.get(f"{family}.*") or Row((), "{said}")
    named = _NAMED_ACTION.search(reply)
    if row.permission and named and named[1].startswith("kms:"):
        row = TABLE[KMS_DENIED if NEEDS.get(error.operation_name, "").startswith("ebs:") else "KMS.*"]
    hint = _allow(error, named[1] if named else "") if row.permission else row.fix
    cause = row.cause.replace("{said}", _cleaned(reply) or f"the answer was HTTP {status}")
    if row.field == "region" and (region := _region_in(error)):
        cause += f", {region}"
    name = code or f"HTTP{status}"
    kind = CLASSES.get(code) or CLASSES.get(family) or StoreError
    return kind(
        f"aws.{name}",
        f"cannot {what}: {cause} ({name})",
        hint=hint.replace("BUCKET", bucket) if bucket else hint,
        field=row.field,
        request_id=_request_id(error),
        transient=row.transient or status in (500, 502, 503, 504),
    )


def _allow(error: ClientError, named: str) -> str:
    """The hint for a missing permission: `named` by newer replies, for older ones found by the operation."""
    needed = NEEDS.get(error.operation_name, f"the action {error.operation_name}")
    # SQS names its actions in small letters.
    if named and not (named.islower() and error.operation_name in NEEDS):
        needed = named
    if denied := _EXPLICIT_DENY.search(_reply(error)):
        policy = denied[1] or "a policy"
        return f"{policy} denies {needed} explicitly: change that policy, allowing it elsewhere has no effect"
    hint = f"allow the credentials {needed}; the IAM policy in docs/permissions.md has all permissions of a job"
    if str(error.response.get("Error", {}).get("Code", "")).isdigit():
        hint += ". This request is refused without a reason: the access key or its secret may also be wrong"
        hint += f"; {OTHER_PARTITIONS}"
    return hint


def _reply(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Message") or "")


def _request_id(error: ClientError) -> str:
    """The id of the request, and the second one that S3 gives: AWS support asks for both."""
    found = error.response.get("ResponseMetadata", {})
    ids = [str(found.get(name) or "") for name in ("RequestId", "HostId")]
    return " ".join(each for each in ids if re.fullmatch(r"[A-Za-z0-9+/=_-]{1,200}", each))


def _is_skewed(error: ClientError) -> bool:
    """True if the reply's Date shows that our clock is wrong: a HEAD reply has no other way to say so."""
    try:
        theirs = parsedate_to_datetime(_headers(error)["date"])
    except (KeyError, ValueError):
        return False
    return abs(datetime.now(UTC) - theirs.replace(tzinfo=theirs.tzinfo or UTC)) > _LARGEST_SKEW


def _region_in(error: ClientError) -> str:
    region = str(_headers(error).get("x-amz-bucket-region") or error.response.get("Error", {}).get("Region", ""))
    return region if re.fullmatch(r"[a-z0-9-]{1,40}", region) else ""


def _headers(error: ClientError) -> dict[str, str]:
    headers: dict[str, str] = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    return headers


def _key_of(error: BaseException) -> str:
    """The row of an error that no server reported; '' if it is not the SDK's."""
    for kind, key in _BY_TYPE:
        if isinstance(error, kind):
            return key
    if is_unreadable(error):
        return "unreadable"
    reason = _reason(error)
    if isinstance(error, ProxyConnectionError):
        return _PROXY_STATUS.get(getattr(reason, "status", 0), "proxy")
    if isinstance(error, SSLError):
        return "tls" if isinstance(reason, ssl.SSLCertVerificationError) else "no_tls"
    if isinstance(error, SdkConnectionError | HTTPClientError):
        return _key_of_connection(error, reason)
    return "sdk" if isinstance(error, BotoCoreError) else ""


def _key_of_connection(error: SdkConnectionError | HTTPClientError, reason: object) -> str:
    """The row of a connection that was not made, or was lost."""
    if type(error) is HTTPClientError and isinstance(reason, _OURS):
        return "unsendable"
    if is_unreadable(reason):
        return "unreadable"
    if isinstance(reason, ConnectionRefusedError):
        return "refused"
    if isinstance(reason, gaierror):
        return "unresolved"
    return "broken_off" if getattr(reason, "errno", None) in _CUT else "unreachable"


def _reason(error: BaseException) -> object:
    """The cause of an SDK exception: the system's own error where there is one."""
    cause = getattr(error, "kwargs", {}).get("error")
    return getattr(cause, "certificate_error", None) or getattr(cause, "os_error", None) or cause


def _where(error: BaseException) -> str:
    return _URL_PRIVATE.sub("", str(getattr(error, "kwargs", {}).get("endpoint_url") or "the endpoint"))


def _said_by_sdk(error: BaseException) -> str:
    reason = _reason(error)
    if isinstance(error, IncompleteReplyError | ProviderError):
        return str(error)
    if isinstance(error, ProxyConnectionError):
        return f"HTTP {getattr(reason, 'status', 0)}"
    if isinstance(error, ConfigParseError):
        # The reason may quote a line, which may hold a key.
        line = getattr(reason, "lineno", None) or next(iter(getattr(reason, "errors", ())), (0,))[0]
        return f"{error.kwargs['path']} is not in the SDK's format" + (f", see line {line}" if line else "")
    if isinstance(error, ConnectionClosedError | IncompleteReadError):
        return "closed before the answer was complete"
    if isinstance(reason, ssl.SSLCertVerificationError):
        return reason.verify_message
    if isinstance(reason, ssl.SSLError):
        return str(reason.reason).replace("_", " ").lower()
    if isinstance(reason, OSError):
        return _cleaned(reason.strerror or type(reason).__name__)
    # The report of a wrong parameter repeats its value, which could be payload.
    report = str(getattr(error, "kwargs", {}).get("report", "")).partition(", value:")[0]
    return _cleaned(report or str(reason or error))


def _cleaned(text: str) -> str:
    """The first line, without possible secrets."""
    line = text.strip().partition("\n")[0].partition(" Encoded authorization failure message")[0]
    line = _PRIVATE.sub("[...]", _URL_PRIVATE.sub("", line))
    return line.strip().rstrip(".") if len(line) <= _LONGEST_QUOTE else f"{line[:_LONGEST_QUOTE]}..."
