"""The process of the EBS endpoint: HTTP in, the rules of `direct` and `ec2` applied, faults played.

`python -m support.ebs.server DIRECTORY` binds a loopback port, prints it, and serves until it is ended. Snapshots'
blocks are kept in sparse files in DIRECTORY, so its memory does not grow with them.
"""

from __future__ import annotations

import asyncio
import secrets
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import uvloop
from aiohttp import web

from support.ebs import direct, query, replies
from support.ebs.account import Account
from support.ebs.control import Control
from support.ebs.direct import Answer, Asked, Direct
from support.ebs.discard import Discard
from support.ebs.ec2 import Ec2, caller_identity
from support.ebs.forward import Forward
from support.ebs.knobs import Fault
from support.ebs.rules import BLOCK, Refusal
from support.ebs.signature import BadSignature, Signature

LARGEST_BODY = 4 << 20
TICK_S = 0.02
"""Between two looks at a client that waits for nothing."""


class CutError(Exception):
    """The connection is to end now."""


class Server:
    """Everything that the process has."""

    def __init__(self, directory: Path) -> None:
        self.control = Control(directory)
        self._forward = Forward()
        self._services: dict[str, tuple[Account, Direct, Ec2]] = {}

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        path, _, queried = request.raw_path.partition("?")
        if path.startswith("/_control"):
            return self.control.answer(request.method, path, await _body(request))
        if request.headers.get("Expect", "").lower() == "100-continue" and request.transport is not None:
            request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        try:
            return await self._serve(request, path, dict(parse_qsl(queried, keep_blank_values=True)))
        except CutError:
            if request.transport is not None:
                request.transport.abort()
            return web.Response(status=500)

    async def _serve(self, request: web.BaseRequest, path: str, queried: dict[str, str]) -> web.StreamResponse:
        marked = secrets.token_hex(8)
        try:
            signature = Signature.parse(request.headers.get("Authorization", ""))
        except BadSignature as bad:
            await _body(request)
            return replies.bad_signature(bad, "ebs" if path.startswith("/snapshots") else "ec2", marked)
        account = self.control.accounts.get(signature.access_key)
        if account is None:
            await _body(request)
            unknown = BadSignature("unknown", "The security token included in the request is invalid.")
            return replies.bad_signature(unknown, signature.service, marked)
        asked = direct.route(request.method, path, queried, request.headers)
        if asked is not None and signature.service == "ebs":
            return await self._serve_direct(request, account, signature, asked, marked)
        if (request.method, path) == ("POST", "/") and signature.service in {"ec2", "sts"}:
            return await self._serve_query(request, account, signature, marked)
        if signature.service == "s3" and account.knobs.s3_url:
            return await self._forward.answer(request, account.knobs.s3_url)
        await _body(request)
        return web.Response(status=404, text=f"{signature.service} has no {request.method} {path}")

    def find(self, access_key: str) -> tuple[Account, Direct] | None:
        account = self.control.accounts.get(access_key)
        return None if account is None else (account, self._of(account)[0])

    def _of(self, account: Account) -> tuple[Direct, Ec2]:
        kept = self._services.get(account.access_key)
        if kept is None or kept[0] is not account:
            for name in set(self._services) - set(self.control.accounts):
                del self._services[name]
            kept = self._services[account.access_key] = (account, Direct(account), Ec2(account))
        return kept[1:]

    async def _serve_direct(
        self, request: web.BaseRequest, account: Account, signature: Signature, asked: Asked, marked: str
    ) -> web.StreamResponse:
        fault = account.strike(asked.operation, asked.snapshot, asked.number)
        putting = asked.operation == "PutSnapshotBlock"
        account.in_flight += putting
        account.most_in_flight = max(account.most_in_flight, account.in_flight)
        try:
            if fault is not None and fault.do == "cut" and asked.operation != "GetSnapshotBlock":
                await _body(request, fault.after)
                raise CutError
            keep = not (putting and account.knobs.discard)
            body = await _body(request) if keep else bytes(await _length(request))
            await asyncio.sleep(account.knobs.latency.get(asked.operation, 0.0))
            if fault is not None and fault.do == "pause":
                await account.pause()
            if fault is not None and fault.do == "hang":
                _record(account, asked.operation, asked.snapshot, asked.number, 0)
                await _hold(request)
            try:
                if account.knobs.verify and not account.knobs.discard:
                    self._check(request, account, signature, body, may_be_unsigned=putting)
                if fault is not None and fault.do == "time_out" and asked.snapshot in account.shelf.snapshots:
                    account.shelf.snapshots[asked.snapshot].fail("The snapshot timed out")
                _refuse(account, asked.operation, fault)
                answer = await self._of(account)[0].answer(asked, body)
                _refuse_after(fault)
            except Refusal as refusal:
                answer = replies.ebs_error(refusal)
            except BadSignature as bad:
                answer = replies.ebs_error(replies.ebs_refusal(bad))
            _record(account, asked.operation, asked.snapshot, asked.number, answer.status, answer.code)
            await _after(request, account, fault)
            return await _send(request, answer, fault, marked)
        finally:
            account.in_flight -= putting

    async def _serve_query(
        self, request: web.BaseRequest, account: Account, signature: Signature, marked: str
    ) -> web.StreamResponse:
        body = await _body(request)
        form = dict(parse_qsl(body.decode(), keep_blank_values=True))
        operation, snapshot = form.get("Action", ""), form.get("SnapshotId", form.get("SnapshotId.1", ""))
        fault = account.strike(operation, snapshot, None)
        if fault is not None and fault.do == "cut":
            raise CutError
        await asyncio.sleep(account.knobs.latency.get(operation, 0.0))
        if fault is not None and fault.do == "pause":
            await account.pause()
        if fault is not None and fault.do == "hang":
            _record(account, operation, snapshot, None, 0)
            await _hold(request)
        status, code = 200, ""
        try:
            if account.knobs.verify:
                self._check(request, account, signature, body, may_be_unsigned=False)
            _refuse(account, operation, fault)
            if signature.service == "sts" and operation == "GetCallerIdentity":
                text = caller_identity(account, marked)
            else:
                text = query.answer(operation, marked, self._of(account)[1].answer(operation, query.parse(body)))
            _refuse_after(fault)
        except (Refusal, BadSignature) as problem:
            refusal = problem if isinstance(problem, Refusal) else replies.ec2_refusal(problem)
            status, code, text = refusal.status, refusal.code, query.error(refusal.code, refusal.message, marked)
        _record(account, operation, snapshot, None, status, code)
        await _after(request, account, fault)
        headers = {"Content-Type": "text/xml;charset=UTF-8", "x-amzn-RequestId": marked}
        return web.Response(status=status, headers=headers, body=text)

    def _check(
        self,
        request: web.BaseRequest,
        account: Account,
        signature: Signature,
        body: bytes,
        *,
        may_be_unsigned: bool,
    ) -> None:
        signature.check(
            method=request.method,
            target=request.raw_path,
            headers=request.headers,
            body=body,
            secret=account.knobs.secret_key,
            region=account.knobs.region,
            now=time.time() + account.knobs.skew,
            may_be_unsigned=may_be_unsigned,
        )


async def _body(request: web.BaseRequest, most: int | None = None) -> bytes:
    """Read the body, or so many bytes of it."""
    body = bytearray()
    async for piece in _pieces(request):
        body += piece
        if len(body) > LARGEST_BODY or (most is not None and len(body) >= most):
            break
    return bytes(body)


async def _length(request: web.BaseRequest) -> int:
    """Read the body without keeping it."""
    length = 0
    async for piece in _pieces(request):
        length += len(piece)
        if length > LARGEST_BODY:
            break
    return length


async def _pieces(request: web.BaseRequest) -> AsyncIterator[bytes]:
    """Yield the body as it comes. `iter_any` would copy it once more; `iter_chunks` never ends if there is no body."""
    while not request.content.at_eof():
        piece, _ = await request.content.readchunk()
        yield piece


async def _hold(request: web.BaseRequest) -> None:
    """Never answer: wait until the client has gone."""
    while request.transport is not None and not request.transport.is_closing():  # noqa: ASYNC110 - it has no event
        await asyncio.sleep(TICK_S)
    raise CutError


async def _after(request: web.BaseRequest, account: Account, fault: Fault | None) -> None:
    """Play what befalls an answer."""
    if fault is not None and fault.do == "lose":
        raise CutError
    if fault is not None and fault.do == "hang_after":
        await _hold(request)
    if fault is not None and fault.do == "pause_after":
        await account.pause()


def _refuse(account: Account, operation: str, fault: Fault | None) -> None:
    knobs = account.knobs
    if fault is not None and fault.do == "error":
        raise Refusal(fault.code, fault.status, fault.message, fault.reason)
    strikes = operation in (knobs.failing_operations or direct.OPERATIONS)
    if strikes and account.dice.falls(knobs.failing_share, knobs.failing_seed):
        code = "InternalServerException" if operation in direct.OPERATIONS else "InternalError"
        raise Refusal(code, 500, "An internal error has occurred.")


def _refuse_after(fault: Fault | None) -> None:
    if fault is not None and fault.do == "error_after":
        raise Refusal(fault.code, fault.status, fault.message, fault.reason)


async def _send(request: web.BaseRequest, answer: Answer, fault: Fault | None, marked: str) -> web.StreamResponse:
    headers, body = answer.headers | {"x-amzn-RequestId": marked}, answer.body
    if fault is not None and fault.do == "corrupt":
        body = bytes([body[0] ^ 1]) + body[1:]
    if fault is not None and fault.do == "cut":
        reply = web.StreamResponse(status=answer.status, headers=headers | {"Content-Length": str(len(body))})
        await reply.prepare(request)
        await reply.write(body[: fault.after])
        raise CutError
    return web.Response(status=answer.status, headers=headers, body=body)


def _record(account: Account, operation: str, snapshot: str, index: int | None, status: int, code: str = "") -> None:
    if account.knobs.discard:
        return
    entry: dict[str, Any] = {"time": time.time(), "operation": operation, "snapshot": snapshot, "status": status}
    if index is not None:
        entry["index"] = index
    if code:
        entry["code"] = code
    account.requests.append(entry)


async def serve(directory: Path) -> None:
    server = Server(directory)
    others = web.Server(server.handle, access_log=None, keepalive_timeout=3600, read_bufsize=BLOCK)
    loop = asyncio.get_running_loop()
    listener = await loop.create_server(lambda: Discard(server.find, others), "127.0.0.1", 0, backlog=1024)
    port = listener.sockets[0].getsockname()[1]
    print(f"Running on http://127.0.0.1:{port}", flush=True)  # noqa: T201 - how it is found
    await listener.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(Path(sys.argv[1])))
