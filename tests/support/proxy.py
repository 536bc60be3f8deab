"""A proxy that misbehaves by script in front of a real endpoint, and keeps a record of every request.

It runs on a thread with a loop of its own, so that a test may block, run its own loop, or start programs.
Requests pass unchanged, the Host header too: the endpoint checks the signature made for the proxy's address.
Each request has its own connection to the endpoint; the client's connection is kept alive.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
import ssl
import struct
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field, replace
from email.utils import formatdate
from typing import TYPE_CHECKING, Self, TypeVar
from urllib.parse import parse_qsl, urlsplit
from xml.sax.saxutils import escape

from support.http1 import READ_LIMIT, Framing, Head, HttpError, read_body, read_head
from support.loop import Address, unread

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterable

    from support.endpoints import Endpoint
    from support.loop import Clock

WAIT_SECONDS = 120.0
TICK_S = 0.005
"""Between two looks at a client whose request is held."""
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class StallBody:
    """Stop reading after this many bytes of the body and hold the connection; 0 withholds 100-continue.

    The endpoint sees nothing. What the kernel buffers, some MB on loopback, the client can still send.
    """

    after: int = 64 * 1024


@dataclass(frozen=True, kw_only=True)
class Reset:
    """Reset the connection after this many bytes of the body; the endpoint sees nothing."""

    after: int = 64 * 1024


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Answer an error of the AWS kind, after the body or, as S3 may, before it; the endpoint sees nothing."""

    status: int
    code: str
    message: str = "by the test's script"
    headers: tuple[tuple[str, str], ...] = ()
    early: bool = False


@dataclass(frozen=True)
class DropReply:
    """Let the endpoint do the request, then close the connection instead of passing its reply."""


@dataclass(frozen=True)
class HoldReply:
    """Let the endpoint do the request, then hold the connection and pass nothing."""


@dataclass(frozen=True, kw_only=True)
class HollowReply:
    """Let the endpoint do the request, or not if `undone`, and answer success with this body and no header of S3's."""

    body: bytes = b""
    undone: bool = False


@dataclass(frozen=True, kw_only=True)
class TruncateReply:
    """Let the endpoint do the request, pass all but the last bytes of its reply, and close the connection.

    A reply without a body, such as that to a PUT, ends in the middle of its head.
    """

    lacking: int = 1


@dataclass(frozen=True, kw_only=True)
class PauseRequest:
    """Hold the request, of which the endpoint sees nothing, until `let_go`; then all goes its way.

    `whole`: take all of the body first, so that the endpoint gets it even if the client has gone by then.
    """

    whole: bool = False


@dataclass(frozen=True)
class PauseReply:
    """Let the endpoint do the request, and hold its reply until `let_go`."""


@dataclass(frozen=True, kw_only=True)
class Slow:
    """Pass the body at this many bytes a second."""

    bytes_per_second: float


Action = (
    StallBody | Reset | Answer | DropReply | HoldReply | HollowReply | TruncateReply | PauseRequest | PauseReply | Slow
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Fault:
    """An action on the `nth` matching request and the `times` - 1 after it (None: on all after it).

    `method` and `path` must match whole, `query` and `form` somewhere; `form` is the body of an EC2 or STS
    request; `header` is a line of the head, in lower case. The first fault that fits a request is the one that happens.
    """

    action: Action
    method: str = "PUT"
    path: str = ".*"
    query: str = ""
    form: str = ""
    header: str = ""
    nth: int = 1
    times: int | None = 1

    def matches(self, request: Request) -> bool:
        return bool(
            re.fullmatch(self.method, request.method)
            and re.fullmatch(self.path, request.path)
            and re.search(self.query, request.query)
            and re.search(self.form, request.form.decode("latin-1"))
            and (
                not self.header
                or any(re.match(self.header, f"{name}: {request.headers[name]}") for name in request.headers)
            )
        )


def dry_run_answered() -> Fault:
    """EC2 dry runs answered as AWS does, for an endpoint that would do the request."""
    answer = Answer(status=412, code="DryRunOperation", message="Request would have succeeded.")
    return Fault(action=answer, method="POST", form="DryRun=true", times=None)


@dataclass(kw_only=True)
class Request:
    """A request as the proxy saw it; `status` is the client's, None without a reply."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    form: bytes = b""
    body_size: int = 0
    status: int | None = None
    upstream_status: int | None = None
    fault: Fault | None = None
    came_at: float = field(default_factory=time.monotonic)
    over: threading.Event = field(default_factory=threading.Event)
    """Set when nothing is done for this request any more, whether or not anybody heard its reply."""

    @property
    def parameters(self) -> dict[str, str]:
        """The query's and the form's parameters; EC2's operation is `Action`."""
        text = self.query + "&" + self.form.decode("latin-1")
        return dict(parse_qsl(text, keep_blank_values=True))


class ScriptedEndError(Exception):
    """The script ends this connection."""


@dataclass(eq=False)
class FaultProxy:
    """`with FaultProxy(endpoint, faults) as proxy:` and talk to `proxy.endpoint`."""

    target: Endpoint
    faults: Iterable[Fault] = ()
    front: ssl.SSLContext | None = None
    requests: list[Request] = field(default_factory=list)
    #: Asked about each request that no fault is for; what it says, if anything, happens.
    at_random: Callable[[Request], Action | None] | None = None
    #: A path below which the endpoint seems to be, as those of some clouds are.
    base: str = ""
    #: The clock of a client in this process: put forward while nothing but held requests is in flight.
    clock: Clock | None = None

    def __post_init__(self) -> None:
        self._scripts = [(fault, threading.Semaphore(0)) for fault in self.faults]
        self._pauses: dict[Fault, asyncio.Event] = {}
        self._counts = {fault: 0 for fault, _ in self._scripts}
        self._tasks: set[asyncio.Task[None]] = set()
        self._moving = 0
        #: Connections that carry no request, and those that are held for ever.
        self._idle: dict[Address, socket.socket] = {}
        self._held: set[Address] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault-proxy")
        parts = urlsplit(self.target.url)
        self._upstream = (parts.hostname, parts.port)
        self._upstream_tls: ssl.SSLContext | None = None
        if self.target.is_https:
            self._upstream_tls = ssl.create_default_context(cafile=self.target.ca_bundle)

    @property
    def endpoint(self) -> Endpoint:
        """The target as seen through the proxy."""
        return replace(self.target, name=f"{self.target.name} by proxy", url=self.url)

    @property
    def url(self) -> str:
        scheme = "https" if self.front else "http"
        return f"{scheme}://127.0.0.1:{self._server.sockets[0].getsockname()[1]}{self.base}"

    def seen(self, method: str = ".*", path: str = ".*", query: str = "") -> list[Request]:
        """Return the recorded requests that fit, oldest first."""
        like = Fault(action=DropReply(), method=method, path=path, query=query)
        return [each for each in list(self.requests) if like.matches(each)]

    def wait_hit(self, fault: Fault, seconds: float = WAIT_SECONDS) -> None:
        """Block until `fault` has happened once more; in a coroutine use `asyncio.to_thread`."""
        hits = next(hits for each, hits in self._scripts if each is fault)
        if not hits.acquire(timeout=seconds):
            raise TimeoutError(f"no request met {fault} within {seconds:.0f} s")

    def add(self, fault: Fault) -> None:
        """Let `fault` happen before all others, counted from now on; in a coroutine use `asyncio.to_thread`."""
        self._call(self._add(fault))

    def let_go(self, fault: Fault) -> None:
        """End the pause of `fault`, the present one and those to come; in a coroutine use `asyncio.to_thread`."""
        self._call(self._let_go(fault))

    def mend(self, *faults: Fault) -> None:
        """Let these faults, and those at random, happen no more; in a coroutine use `asyncio.to_thread`."""
        self._call(self._mend(faults))

    def hang_up(self) -> None:
        """End every connection now; in a coroutine use `asyncio.to_thread`."""
        self._call(self._end_connections())

    def __enter__(self) -> Self:
        self._thread.start()
        self._server = self._call(self._listen())
        return self

    def __exit__(self, *_: object) -> None:
        self._call(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _call(self, work: Coroutine[None, None, Result]) -> Result:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(WAIT_SECONDS)

    async def _listen(self) -> asyncio.Server:
        return await asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=self.front, limit=READ_LIMIT)

    async def _close(self) -> None:
        self._server.close()
        await self._end_connections()
        await self._server.wait_closed()
        # Transports report their end in the next turns of the loop; unreported ones would be warnings.
        for _ in range(3):
            await asyncio.sleep(0)

    async def _add(self, fault: Fault) -> None:
        self._scripts.append((fault, threading.Semaphore(0)))
        self._counts = {fault: 0, **self._counts}

    def _pause(self, fault: Fault) -> asyncio.Event:
        return self._pauses.setdefault(fault, asyncio.Event())

    async def _let_go(self, fault: Fault) -> None:
        self._pause(fault).set()

    async def _mend(self, faults: tuple[Fault, ...]) -> None:
        self.at_random = None
        for fault in faults:
            self._counts.pop(fault, None)

    async def _end_connections(self) -> None:
        ending = list(self._tasks)
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Known from its first moment: one that is not yet served is ended with the others.
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._over(done, writer))
        if not self._server.is_serving():
            task.cancel()

    def _over(self, task: asyncio.Task[None], writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()
        self._tasks.discard(task)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ScriptedEndError, HttpError, OSError):
            while await self._serve_one(reader, writer):
                pass

    async def _serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Serve one request and say whether the connection may carry another."""
        address: Address = writer.get_extra_info("peername")
        self._idle[address] = writer.get_extra_info("socket")
        try:
            head = await read_head(reader)
        finally:
            del self._idle[address]
        if head is None:
            return False
        method, target, _ = head.first_line
        if not target.startswith(self.base):
            return False
        if self.base:
            below = target.removeprefix(self.base) or "/"
            head = replace(head, raw=head.raw.replace(f" {target} ".encode(), f" {below} ".encode(), 1))
            target = below
        path, _, query = target.partition("?")
        request = Request(method=method, path=path, query=query, headers=head.headers)
        self.requests.append(request)
        self._moving += 1
        try:
            if head.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
                request.form = b"".join([piece async for piece in read_body(reader, head.request_framing())])
            request.fault = self._fault_for(request)
            return await self._do(request, head, reader, writer)
        finally:
            self._moving -= 1
            request.over.set()

    async def _do(
        self, request: Request, head: Head, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        exchange = _Exchange(self, request, head, reader, writer)
        action = request.fault.action if request.fault else None
        match action:
            case StallBody() | Reset():
                await exchange.read_some(action.after)
                self._hit(request)
                if isinstance(action, StallBody):
                    await self._hold(writer)
                _make_reset(writer)
                raise ScriptedEndError
            case Answer():
                return await exchange.answer(action)
            case HollowReply(undone=True):
                await exchange.read_all()
                return await exchange.hollow(action)
            case PauseRequest():
                if action.whole and not request.form:
                    exchange._invite()
                    request.form = b"".join([piece async for piece in exchange._body()])
                await exchange.pause()
                return await exchange.relay(action)
            case _:
                return await exchange.relay(action)

    async def _hold(self, writer: asyncio.StreamWriter) -> None:
        """Hold the connection for ever; the client's clock, once known, runs until the client gives up."""
        address: Address = writer.get_extra_info("peername")
        self._held.add(address)
        self._moving -= 1
        waits = True
        try:
            while waits:
                await asyncio.sleep(TICK_S)
                if self.clock is not None and self._moving == 0:
                    waits = await self.clock.pass_for(address, writer.get_extra_info("sockname"), self._is_quiet)
            await asyncio.get_running_loop().create_future()
        finally:
            self._moving += 1
            self._held.remove(address)

    async def _is_quiet(self, addresses: set[Address]) -> bool:
        """Report that none of these connections carries a request, but those that are held."""
        if any(map(unread, self._idle.values())):
            return False
        for _ in range(3):
            # A head that was received is read in the next turns.
            await asyncio.sleep(0)
        return self._moving == 0 and addresses <= self._idle.keys() | self._held

    def _fault_for(self, request: Request) -> Fault | None:
        chosen = None
        for fault, count in self._counts.items():
            if not fault.matches(request):
                continue
            self._counts[fault] = number = count + 1
            is_due = number >= fault.nth and (fault.times is None or number < fault.nth + fault.times)
            if is_due and chosen is None:
                chosen = fault
        if chosen is None and self.at_random is not None and (action := self.at_random(request)) is not None:
            chosen = Fault(action=action)
        return chosen

    def _hit(self, request: Request) -> None:
        for fault, hits in self._scripts:
            if fault is request.fault:
                hits.release()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        host, port = self._upstream
        return await asyncio.open_connection(host, port, ssl=self._upstream_tls, limit=READ_LIMIT)


@dataclass(eq=False)
class _Exchange:
    """A request on its way to the endpoint, and the reply on its way back."""

    proxy: FaultProxy
    request: Request
    head: Head
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def read_some(self, size: int) -> None:
        """Read up to `size` bytes of the body, inviting it when the client waits for that."""
        if size == 0:
            return
        self._invite()
        async for piece in self._body():
            self.request.body_size += len(piece)
            if self.request.body_size >= size:
                return

    async def read_all(self) -> None:
        self._invite()
        async for piece in self._body():
            self.request.body_size += len(piece)

    async def hollow(self, action: HollowReply) -> bool:
        body = b"" if self.request.method == "HEAD" else action.body
        self.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        self.proxy._hit(self.request)
        await self.writer.drain()
        return True

    async def answer(self, action: Answer) -> bool:
        if not action.early:
            await self.read_all()
        is_json = "x-amz-target" in self.request.headers
        document = _json_error(action) if is_json else _error_document(action, ec2=bool(self.request.form))
        body = b"" if self.request.method == "HEAD" else document
        headers = {
            "Date": formatdate(usegmt=True),
            "Content-Type": "application/x-amz-json-1.0" if is_json else "application/xml",
            "Content-Length": str(len(body)),
            "x-amz-request-id": "FAULTPROXY000000",
            **({"Connection": "close"} if action.early else {}),
            **dict(action.headers),
        }
        lines = [f"HTTP/1.1 {action.status} {action.code}", *(f"{k}: {v}" for k, v in headers.items())]
        self.writer.write("\r\n".join([*lines, "", ""]).encode() + body)
        self.request.status = action.status
        self.proxy._hit(self.request)
        await self.writer.drain()
        return not action.early

    async def relay(self, action: Action | None) -> bool:
        up_reader, up_writer = await self.proxy._connect()
        sending = asyncio.create_task(self._send(up_writer, action))
        receiving = asyncio.create_task(self._final_head(up_reader))
        try:
            await asyncio.wait({sending, receiving}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
            reply = await receiving
            self.request.upstream_status = reply.status
            # The endpoint has made up its mind before the end of the body: nothing can follow it.
            is_early = not (sending.done() and sending.result())
            if isinstance(action, DropReply | HoldReply | HollowReply):
                async for _ in read_body(up_reader, reply.reply_framing(self.request.method)):
                    pass
                if isinstance(action, HollowReply):
                    return await self.hollow(action) and not is_early
                self.proxy._hit(self.request)
                if isinstance(action, HoldReply):
                    await self.proxy._hold(self.writer)
                raise ScriptedEndError
            if isinstance(action, TruncateReply):
                await self._pass_some(up_reader, reply, action.lacking)
                self.proxy._hit(self.request)
                raise ScriptedEndError
            if isinstance(action, PauseReply):
                await self.pause()
            await self._pass_reply(up_reader, reply, closing=is_early)
            if action is not None and not isinstance(action, PauseRequest | PauseReply):
                self.proxy._hit(self.request)
            framing = reply.reply_framing(self.request.method)
            return not is_early and reply.keeps_alive and framing is not Framing.UNTIL_CLOSE
        finally:
            # Before anything is waited for, where a cancel could come in between.
            up_writer.transport.abort()
            for task in (sending, receiving):
                task.cancel()
            await asyncio.gather(sending, receiving, return_exceptions=True)

    async def pause(self) -> None:
        """Wait for `let_go`."""
        assert self.request.fault is not None
        pause = self.proxy._pause(self.request.fault)
        self.proxy._hit(self.request)
        await pause.wait()

    async def _send(self, up_writer: asyncio.StreamWriter, action: Action | None) -> bool:
        """Pass head and body on; False when the endpoint would not have all of it."""
        rate = action.bytes_per_second if isinstance(action, Slow) else None
        up_writer.write(self.head.raw + self.request.form)
        async for piece in self._body(READ_LIMIT if rate is None else max(1, int(rate / 10))):
            self.request.body_size += len(piece)
            try:
                up_writer.write(piece)
                await up_writer.drain()
            except OSError:
                return False
            if rate is not None:
                await asyncio.sleep(len(piece) / rate)
        return True

    async def _final_head(self, up_reader: asyncio.StreamReader) -> Head:
        """Return the head of the reply, having passed on those that come before it (100-continue)."""
        while True:
            head = await read_head(up_reader)
            if head is None:
                raise HttpError("the endpoint closed without a reply")
            if head.status >= 200:
                return head
            self.writer.write(head.raw)

    async def _pass_reply(self, up_reader: asyncio.StreamReader, reply: Head, *, closing: bool) -> None:
        self.request.status = reply.status
        self.writer.write(reply.closing() if closing else reply.raw)
        async for piece in read_body(up_reader, reply.reply_framing(self.request.method)):
            self.writer.write(piece)
            await self.writer.drain()
        await self.writer.drain()

    async def _pass_some(self, up_reader: asyncio.StreamReader, reply: Head, lacking: int) -> None:
        """Pass all of the reply but its last bytes."""
        body = [piece async for piece in read_body(up_reader, reply.reply_framing(self.request.method))]
        self.writer.write(b"".join([reply.raw, *body])[:-lacking])
        await self.writer.drain()

    def _body(self, piece: int = READ_LIMIT) -> AsyncIterator[bytes]:
        # A form has been read already, because scripts may match its text.
        framing = 0 if self.request.form else self.head.request_framing()
        return read_body(self.reader, framing, piece)

    def _invite(self) -> None:
        if self.head.expects_continue:
            self.writer.write(CONTINUE)


def _make_reset(writer: asyncio.StreamWriter) -> None:
    """Let the close of this connection be a reset."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _json_error(action: Answer) -> bytes:
    """The error of a service that speaks JSON, such as SQS."""
    return json.dumps({"__type": f"com.amazonaws#{action.code}", "message": action.message}).encode()


def _error_document(action: Answer, *, ec2: bool) -> bytes:
    error = f"<Error><Code>{escape(action.code)}</Code><Message>{escape(action.message)}</Message>"
    if ec2:
        errors = f"<Errors>{error}</Error></Errors>"
        return f"<Response>{errors}<RequestID>FAULTPROXY</RequestID></Response>".encode()
    return f"{error}<RequestId>FAULTPROXY000000</RequestId></Error>".encode()
