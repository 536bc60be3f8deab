"""The fast way of the EBS double: puts of accounts that discard, without a copy of a body and without aiohttp.

A connection begins here. Its first request that is not such a put hands it over to aiohttp, to its end: what is
answered is the same, only the price is not. So a benchmark measures its client, not the double.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable
from typing import Any

from multidict import CIMultiDict

from support.ebs import direct
from support.ebs.account import Account
from support.ebs.direct import Direct
from support.ebs.rules import BLOCK, Refusal
from support.ebs.signature import BadSignature, Signature
from support.ebs.snapshots import Snapshot

Find = Callable[[str], tuple[Account, Direct] | None]
LARGEST_HEAD = 64 * 1024
_END = b"\r\n\r\n"


class Discard(asyncio.BufferedProtocol):
    """One connection. `find` gives the account of an access key; `others` makes the protocol for other requests."""

    def __init__(self, find: Find, others: Callable[[], Any]) -> None:
        self._find, self._others = find, others
        self._buffer = bytearray(LARGEST_HEAD + BLOCK)
        self._filled = 0
        self._missing = 0
        """Bytes of a body that are still to come."""
        self._put: tuple[Account, Snapshot, int, bytes] | None = None
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def connection_lost(self, _: Exception | None) -> None:
        if self._put is not None:
            self._leave(*self._put[:2])

    def get_buffer(self, _: int) -> memoryview:
        # A body is overwritten as it comes; what follows it is not read with it.
        view = memoryview(self._buffer)
        return view[: self._missing] if self._put is not None else view[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        if self._put is not None:
            self._missing -= nbytes
        else:
            self._filled += nbytes
            end = self._buffer.find(_END, 0, self._filled)
            if end < 0 and self._filled < len(self._buffer):
                return
            if end < 0 or self._filled > end + len(_END) + BLOCK or not self._begin(bytes(self._buffer[:end])):
                self._hand_over()
                return
            self._missing = BLOCK - (self._filled - end - len(_END))
        if not self._missing:
            self._finish()

    def _begin(self, head: bytes) -> bool:
        """Begin a put that can be discarded: it will be right when its body has come."""
        line, *fields = head.decode("latin-1").split("\r\n")
        method, target, _ = line.split(" ", 2)
        if method != "PUT" or "?" in target:
            return False
        headers = CIMultiDict((name, value.strip()) for name, _, value in (each.partition(":") for each in fields))
        asked = direct.route(method, target, {}, headers)
        if asked is None or headers.get("Content-Length") != str(BLOCK) or "Expect" in headers:
            return False
        try:
            found = self._find(Signature.parse(headers.get("Authorization", "")).access_key)
            if found is None or not found[0].only_discards:
                return False
            snapshot, index, digest = found[1].admit(asked)
        except (BadSignature, Refusal):
            return False
        account = found[0]
        self._put = (account, snapshot, index, digest)
        snapshot.in_flight += 1
        account.in_flight += 1
        account.most_in_flight = max(account.most_in_flight, account.in_flight)
        account.counts[asked.operation] += 1
        return True

    def _finish(self) -> None:
        assert self._put is not None
        account, snapshot, index, digest = self._put
        self._put, self._filled = None, 0
        self._leave(account, snapshot)
        snapshot.put(index, b"", digest, keep=False)
        snapshot.touched = account.now
        self._transport.write(
            b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\nx-amzn-RequestId: 0\r\n"
            b"x-amz-Checksum-Algorithm: SHA256\r\nx-amz-Checksum: %b\r\n\r\n" % base64.b64encode(digest)
        )

    def _leave(self, account: Account, snapshot: Snapshot) -> None:
        snapshot.in_flight -= 1
        account.in_flight -= 1

    def _hand_over(self) -> None:
        came = bytes(self._buffer[: self._filled])
        protocol = self._others()
        self._transport.pause_reading()
        self._transport.set_protocol(protocol)
        protocol.connection_made(self._transport)
        protocol.data_received(came)
        self._transport.resume_reading()
