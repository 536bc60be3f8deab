"""Client of the daemon's API on its Unix socket: one method per request, and the stream of a job's events.

Every request may be sent twice: a submit carries an Idempotency-Key, the others have the same effect again. So a
request with a lost response is repeated, and a dropped event stream continues after the last event. A daemon that was
never reached is reported at once.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

import aiohttp
from pydantic import BaseModel, ValidationError

from amistream.cli.one_request import job_path
from amistream.errors import (
    AccessDeniedError,
    AmistreamError,
    BusyError,
    ConflictError,
    DaemonUnreachableError,
    JobError,
    NotFoundError,
    UsageError,
)
from amistream.events import ErrorBody, Event, JobLines, JobList, JobView, QueueHealth

if TYPE_CHECKING:
    from amistream.checks.findings import Findings
    from amistream.request import CheckRequest, JobRequest
    from amistream.request.convert import ConvertCheckRequest

RETRY_DELAYS_S = (0.1, 0.2, 0.5, 1.0, 1.5)
"""Pauses between tries; together longer than a restart of the daemon by systemd. Guess."""

CONNECT_TIMEOUT_S = 5.0
REPLY_TIMEOUT_S = 30.0
NO_READ_LIMIT = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S)
FULL_ID = re.compile("[0-9]{8}-[0-9]{6}-[0-9a-f]{6}")
LONGEST_LINE = 1024 * 1024
"""Maximum bytes of a line of an event stream; a job's view has a few KiB."""

_Model = TypeVar("_Model", bound=BaseModel)

_CONNECTION_ERRORS = (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, TimeoutError)

_BY_STATUS: dict[int, type[AmistreamError]] = {
    HTTPStatus.FORBIDDEN: AccessDeniedError,
    HTTPStatus.NOT_FOUND: NotFoundError,
    HTTPStatus.CONFLICT: ConflictError,
    HTTPStatus.SERVICE_UNAVAILABLE: BusyError,
}


class EventParser:
    """Parses one connection's server-sent events (WHATWG HTML, section 9.2.6), as far as the daemon uses them.

    Comments (the daemon's keep-alive) and unknown fields are ignored, as in the standard.
    """

    def __init__(self) -> None:
        self._data: list[str] = []

    def feed(self, line: bytes) -> Event | None:
        """Take one line; return an event once a blank line has completed it. Raises pydantic's `ValidationError`."""
        text = line.decode().rstrip("\r\n")
        if text:
            name, _, value = text.partition(":")
            if name == "data":
                self._data.append(value.removeprefix(" "))
            return None
        data, self._data = "\n".join(self._data), []
        # The data repeats the `id:` and `event:` lines, so those are not parsed.
        return Event.model_validate_json(data) if data else None


class _Accepted(BaseModel):
    id: str


class Health(BaseModel):
    """The fields of the daemon's health that `doctor` examines."""

    status: str
    version: str
    jobs_running: int
    jobs_queued: int
    notices: tuple[str, ...] = ()
    queue: QueueHealth | None = None


class _ErrorReply(BaseModel):
    error: ErrorBody


class Client:
    """`async with Client(socket) as client`. Raises `DaemonUnreachableError`, or the daemon's error."""

    def __init__(self, socket: Path, *, retry_delays_s: tuple[float, ...] = RETRY_DELAYS_S) -> None:
        self._socket = socket
        self._delays_s = retry_delays_s
        self._reached = False
        self._session: aiohttp.ClientSession

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            "http://localhost",
            connector=aiohttp.UnixConnector(str(self._socket)),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=REPLY_TIMEOUT_S),
            read_bufsize=LONGEST_LINE,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def submit(self, request: JobRequest, key: str = "") -> str:
        """Submit the job and return its id; with the `key` of an earlier one, the id of that."""
        body = request.model_dump(mode="json", exclude_unset=True)
        headers = {"Idempotency-Key": key or secrets.token_hex(16)}
        return self._read(_Accepted, await self._ask("POST", "/v1/jobs", json=body, headers=headers)).id

    async def jobs(self, path: str = "/v1/jobs") -> JobList:
        """The jobs of a list, whose `path` says which ones."""
        return self._read(JobList, await self._ask("GET", path))

    async def full_id(self, word: str) -> str:
        """The id of the job that `word` stands for. What changes a job is asked for by its whole id only."""
        return word if FULL_ID.fullmatch(word) else (await self.get(word)).id

    async def document(self, path: str) -> bytes:
        """The daemon's answer to a GET, as it comes: for many jobs a model of each takes long."""
        return await self._ask("GET", path)

    async def get(self, job_id: str) -> JobView:
        return self._read(JobView, await self._ask("GET", job_path(job_id)))

    async def lines(self, job_id: str) -> JobLines:
        """The daemon's log about the job."""
        return self._read(JobLines, await self._ask("GET", f"{job_path(job_id)}/log"))

    async def cancel(self, job_id: str) -> str:
        """Ask the daemon to cancel the job; its state changes once it has ended. Return the id."""
        job_id = await self.full_id(job_id)
        return self._read(_Accepted, await self._ask("DELETE", job_path(job_id))).id

    async def resume(self, job_id: str) -> str:
        job_id = await self.full_id(job_id)
        return self._read(_Accepted, await self._ask("POST", f"{job_path(job_id)}/resume")).id

    async def doctor(self, request: CheckRequest | ConvertCheckRequest) -> Findings:
        """Have the daemon run a job's checks."""
        from amistream.checks.findings import Findings

        body = request.model_dump(mode="json", exclude_unset=True)
        # Checks ask AWS, with retries: they may take minutes.
        return self._read(Findings, await self._ask("POST", "/v1/doctor", json=body, timeout=NO_READ_LIMIT))

    async def health(self) -> Health:
        return self._read(Health, await self._ask("GET", "/v1/health"))

    async def drain(self) -> QueueHealth:
        """Let the daemon take no more jobs from its queue."""
        return self._read(QueueHealth, await self._ask("POST", "/v1/queue/drain"))

    async def events(self, job_id: str) -> AsyncGenerator[Event, None]:
        """Yield the past and new events of the job, until it has ended."""
        seen = failures = 0
        cause: Exception | None = None
        while failures <= len(self._delays_s):
            if failures:
                await asyncio.sleep(self._delays_s[failures - 1])
            failures += 1
            try:
                async with aclosing(self._stream(job_id, seen)) as stream:
                    async for event in stream:
                        failures, seen = 1, event.id
                        yield event
                        if event.job.state.ended:
                            return
            except NotFoundError as error:
                if not seen:
                    raise
                raise JobError(
                    "job.lost",
                    f"cannot follow job {job_id} any longer: the daemon does not know it any more",
                    hint="the daemon was restarted; its log says how the job ended. Submit the job again",
                ) from error
            except _CONNECTION_ERRORS as error:
                cause = error
                self._give_up_unless_reached(error)
        raise self._unreachable(cause) from cause

    async def _stream(self, job_id: str, seen: int) -> AsyncGenerator[Event, None]:
        headers = {"Accept": "text/event-stream"}
        if seen:
            headers["Last-Event-ID"] = str(seen)
        # No time limit for an event: a job can wait in the queue for hours.
        async with self._session.get(f"{job_path(job_id)}/events", headers=headers, timeout=NO_READ_LIMIT) as response:
            self._reached = True
            if response.status != HTTPStatus.OK:
                raise self._error(response.status, await response.read())
            parser = EventParser()
            async for line in response.content:
                try:
                    event = parser.feed(line)
                except ValidationError as error:
                    raise self._not_understood() from error
                if event is not None:
                    yield event

    async def _ask(self, method: str, path: str, **options: Any) -> bytes:
        """Send a request, repeated until a response arrives, and return its body; raise the error in it."""
        delays_s = iter(self._delays_s)
        while True:
            try:
                async with self._session.request(method, path, **options) as response:
                    self._reached = True
                    body = await response.read()
                break
            except _CONNECTION_ERRORS as error:
                self._give_up_unless_reached(error)
                delay_s = next(delays_s, None)
                if delay_s is None:
                    raise self._unreachable(error) from error
                await asyncio.sleep(delay_s)
        if response.status >= HTTPStatus.BAD_REQUEST:
            raise self._error(response.status, body)
        return body

    def _read(self, model: type[_Model], body: bytes) -> _Model:
        try:
            return model.model_validate_json(body)
        except ValidationError as error:
            raise self._not_understood() from error

    def _error(self, status: int, body: bytes) -> AmistreamError:
        """Make the error of a response, of the class with the fitting exit status."""
        try:
            reply = _ErrorReply.model_validate_json(body).error
        except ValidationError:
            return self._not_understood()
        default = UsageError if status < HTTPStatus.INTERNAL_SERVER_ERROR else AmistreamError
        return _BY_STATUS.get(status, default)(**reply.model_dump())

    def _give_up_unless_reached(self, error: Exception) -> None:
        """Raise `DaemonUnreachableError` if no connection was ever made: such a daemon does not run."""
        if isinstance(error, aiohttp.ClientConnectorError) and not self._reached:
            raise self._unreachable(error) from error
        self._reached = True

    def _unreachable(self, cause: Exception | None) -> DaemonUnreachableError:
        if isinstance(cause, aiohttp.ClientConnectorError):
            return self._not_connected(cause.os_error)
        return DaemonUnreachableError(
            "daemon.unreachable",
            f"cannot reach the daemon at {self._socket}: the connection was lost",
            hint="`journalctl -u amistream` shows the reason, and `amistream jobs` the state of the jobs",
        )

    def _not_connected(self, error: OSError) -> DaemonUnreachableError:
        why = error.strerror or str(error)
        hint = (
            "start the daemon with `systemctl start amistream` or `amistreamd --socket "
            f"{self._socket}`, or go without it: --in-process"
        )
        if isinstance(error, PermissionError):
            hint = self._how_to_get_access()
        elif error.errno is None:  # refused by Python: the path is too long
            hint = "give a path of at most 107 bytes with --socket"
        return DaemonUnreachableError(
            "daemon.unreachable", f"cannot reach the daemon at {self._socket}: {why}", hint=hint
        )

    def _how_to_get_access(self) -> str:
        """Make a hint with the socket's group; if the socket is not visible, with the default group `amistream`."""
        group = "amistream"
        with suppress(OSError, KeyError):
            if self._socket.stat().st_gid == 0:
                return "use sudo; to let a group in, set socket_group in the daemon's configuration"
            group = self._socket.group()
        return f"become a member of the group {group!r} (log in again after that), or use sudo"

    def _not_understood(self) -> DaemonUnreachableError:
        return DaemonUnreachableError(
            "daemon.not_understood",
            f"cannot understand what answers at {self._socket}",
            hint="is it the socket of amistreamd, of the same version? `amistream --version` shows the client's",
        )
