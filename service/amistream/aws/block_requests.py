"""Requests for single blocks of EBS snapshots, past the SDK's layers: 2048 of them move one GiB.

A request of the SDK costs more CPU time than hashing the block: events, endpoint rules, a user agent, parsing. These
requests have the SDK's own signature (`SigV4Auth`), credentials, endpoint, HTTP session with its TLS and proxy settings
and time-outs, and its parser for errors; only the layers in between are left out. On the wire they are what the SDK
sends, without the two `amz-sdk-` headers, which nothing signs.

Puts share a signature's text (`signed_puts`). Gets, which are fewer where they limit anything, are signed one by one.

As in the SDK, the body of a put is not signed (`UNSIGNED-PAYLOAD`): the signed header has its SHA-256.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from aiohttp.abc import AbstractStreamWriter
from aiohttp.payload import Payload
from botocore.auth import SIGNED_HEADERS_BLACKLIST, SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.exceptions import ClientError
from botocore.parsers import create_parser

from amistream.aws.providers import GuardedCredentials
from amistream.aws.signed_puts import SignableRequest, SignedPuts, timestamp_now
from amistream.aws.translate import IncompleteReplyError
from amistream.ports.snapshots import BLOCK
from amistream.values import KIB, Buffer

_TLS_SLICE = 64 * KIB
"""Bytes that are encrypted and not yet sent, for each connection; up to twice as many."""


class BlockRequests:
    """Puts and gets of one endpoint. Raises the SDK's exceptions; call within `asking`."""

    def __init__(self, client: Any, credentials: GuardedCredentials | None) -> None:
        """`client` is the SDK's for `ebs`, and stays open for as long as this is used."""
        self._credentials = credentials
        self._model = client.meta.service_model
        self._region = client.meta.region_name
        self._url = client.meta.endpoint_url.rstrip("/")
        self._http = client._endpoint.http_session  # noqa: SLF001 - nothing public gives it
        agent = client._user_agent_creator.to_string()  # noqa: SLF001 - the same
        self._always = {"User-Agent": agent}
        self._puts: SignedPuts | None = None
        self._host: str = SigV4Auth(None, "", "").headers_to_sign(AWSRequest(url=self._url))["host"]

    async def put(self, snapshot_id: str, index: int, data: Buffer, digest: bytes) -> None:
        """PutSnapshotBlock. `data` is sent as it is, and must not change before this returns.

        A cancelled request may still flush an old piece of a buffer that has new bytes meanwhile: EBS refuses the
        block then, because of its SHA-256.
        """
        checksum = b64encode(digest).decode()
        url, timestamp = f"{self._url}/snapshots/{snapshot_id}/blocks", timestamp_now()
        keys = await self._keys()
        if self._puts is None or not self._puts.good(url, keys, timestamp):
            always = {**self._always, "x-amz-Data-Length": str(BLOCK), "x-amz-Checksum-Algorithm": "SHA256"}
            self._puts = SignedPuts(url, always, keys, self._model.signing_name, self._region)
            timestamp = self._puts.made_at
        headers = self._puts.sign(index, checksum, timestamp)
        headers["Content-Length"] = str(BLOCK)
        answered, _ = await self._ask("PutSnapshotBlock", "PUT", f"{url}/{index}", headers, _Body(data))
        if answered.get("x-amz-checksum", checksum) != checksum:
            raise IncompleteReplyError("has the checksum of another block")

    async def get(self, snapshot_id: str, index: int, token: str) -> tuple[bytes, bytes]:
        """GetSnapshotBlock: the bytes, and the SHA-256 that the answer promises."""
        url = f"{self._url}/snapshots/{snapshot_id}/blocks/{index}?blockToken={quote(token, safe='-_.~')}"
        request = SignableRequest(method="GET", url=url, headers=self._always.copy())
        _Signer(await self._keys(), self._model.signing_name, self._region, self._host).add_auth(request)
        headers, body = await self._ask("GetSnapshotBlock", "GET", url, request.headers)
        if len(body) != BLOCK:
            raise IncompleteReplyError(f"has a block of {len(body)} bytes")
        try:
            return body, b64decode(headers["x-amz-checksum"], validate=True)
        except (KeyError, Base64Error):
            raise IncompleteReplyError("has no checksum") from None

    async def _keys(self) -> Any:
        return None if self._credentials is None else await self._credentials.get_frozen_credentials()

    async def _ask(
        self, operation: str, method: str, url: str, headers: Mapping[str, str], body: _Body | None = None
    ) -> tuple[Mapping[str, str], bytes]:
        """Headers and body of the answer; raises `ClientError` for a refusal."""
        answer, content = await self._http.ask(method, url, headers, body)
        if answer.status >= HTTPStatus.MULTIPLE_CHOICES:
            raise self._refusal(operation, answer, content)
        return answer.headers, content

    def _refusal(self, operation: str, answer: Any, body: bytes) -> ClientError:
        headers = {name.lower(): value for name, value in answer.headers.items()}
        reply = {"status_code": answer.status, "headers": headers, "body": body, "context": {}}
        parser = create_parser("rest-json")
        parsed = parser.parse(reply, self._model.operation_model(operation).output_shape)
        shape = self._model.shape_for_error_code(parsed.get("Error", {}).get("Code"))
        if shape is not None:
            parsed.update(parser.parse(reply, shape))
        return ClientError(parsed, operation)


class _Body(Payload):
    """A block that the HTTP library sends as it is: bytes it would copy, to put the headers before them.

    Over TLS the block goes in slices, each when the one before has left: what is encrypted is a copy.
    """

    _value: Buffer
    _autoclose = True

    def __init__(self, data: Buffer) -> None:
        super().__init__(data)
        self._size = len(data)

    def __len__(self) -> int:
        return len(self._value)

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Send all of it; another call, for a request that is sent again, begins anew."""
        view = memoryview(self._value)
        slice_size = len(view)
        transport = writer.transport
        if transport is not None and transport.get_extra_info("sslcontext") is not None:
            # By default 512 KiB.
            transport.set_write_buffer_limits(high=_TLS_SLICE)
            slice_size = _TLS_SLICE
        await writer.write(b"")  # the headers go out with the first piece
        for start in range(0, len(view), slice_size):
            await writer.write(view[start : start + slice_size])
            await writer.drain()

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """Give the block as text, which the library asks of all bodies."""
        return str(self._value, encoding, errors)


class _Headers(dict[str, str]):
    """The part of the SDK's class for headers that its signer uses, which is a parser of e-mails."""

    def get_all(self, name: str) -> list[str]:
        return [self[name]]


class _Signer(SigV4Auth):  # type: ignore[misc, unused-ignore]  # untyped, where no stubs are installed
    """The SDK's signer, with a quicker choice of the same headers."""

    def __init__(self, keys: Any, service: str, region: str, host: str) -> None:
        super().__init__(keys, service, region)
        self._host = host

    def headers_to_sign(self, request: Any) -> Any:
        named = ((name.lower(), value) for name, value in request.headers.items())
        chosen = _Headers((name, value) for name, value in named if name not in SIGNED_HEADERS_BLACKLIST)
        chosen["host"] = self._host
        return chosen
