"""The OpenAPI document: valid, complete, and equal to the daemon's behaviour."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
import requests
import schemathesis
import uvloop
from hypothesis import HealthCheck, settings
from openapi_spec_validator import OpenAPIV31SpecValidator
from requests.adapters import HTTPAdapter
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance
from urllib3.connection import HTTPConnection
from urllib3.connectionpool import HTTPConnectionPool

from amistream.daemon.access import AccessPolicy
from amistream.daemon.app import make_app, serving
from amistream.daemon.listener import listening
from amistream.daemon.metrics import Metrics
from amistream.daemon.openapi import make_document
from amistream.daemon.routes import ENDPOINTS
from amistream.events import State
from amistream.jobs.job import Job
from amistream.jobs.journal import Journal
from amistream.jobs.queue import JobQueue
from daemon.rig import StartDaemon, find_nothing


class UnixAdapter(HTTPAdapter):
    """Lets `requests` use a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__()

        class Connection(HTTPConnection):
            def connect(self) -> None:
                self.sock = socket.socket(socket.AF_UNIX)
                self.sock.connect(str(path))

        self._pool = HTTPConnectionPool("localhost")
        self._pool.ConnectionCls = Connection

    def get_connection_with_tls_context(self, *_: Any, **__: Any) -> HTTPConnectionPool:
        return self._pool

    def close(self) -> None:
        self._pool.close()
        super().close()


async def end_at_once(job: Job) -> None:
    job.move(State.CHECKING)
    job.move(State.REFUSED)


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[requests.Session]:
    """Give a client of a daemon on a thread of its own, because schemathesis uses blocking calls."""
    path = tmp_path_factory.mktemp("openapi") / "a.sock"
    ready: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    async def serve(listener: socket.socket) -> None:
        stop = asyncio.Event()
        async with (
            Journal(path.parent, by_itself=True) as journal,
            JobQueue(end_at_once, end_at_once, journal, max_jobs=8, max_queued=10_000, default_prefix="image") as queue,
            serving(make_app(queue, Metrics(), AccessPolicy(), find_nothing), listener),
        ):
            ready.set_result((asyncio.get_running_loop(), stop))
            await stop.wait()

    with listening(path, None) as listener:
        thread = threading.Thread(target=lambda: uvloop.run(serve(listener)))
        thread.start()
        loop, stop = ready.result(timeout=20)
        try:
            with requests.Session() as client:
                client.mount("http://", UnixAdapter(path))
                yield client
        finally:
            loop.call_soon_threadsafe(stop.set)
            thread.join()


schema = schemathesis.openapi.from_dict(make_document(ENDPOINTS))
schema.config.update(base_url="http://localhost")


@schema.parametrize()
@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
def test_answers_are_as_documented(case: schemathesis.Case[Any], session: requests.Session) -> None:
    """Every response, to valid and invalid requests, is in the document, and none is a 500."""
    # A well-formed request may still be refused (an AMI name without registration): no schema describes that. A number
    # may be sent as text, as the command line does.
    case.call_and_validate(session=session, excluded_checks=[positive_data_acceptance, negative_data_rejection])


def test_document_is_valid() -> None:
    """The document is OpenAPI 3.1."""
    OpenAPIV31SpecValidator(make_document(ENDPOINTS)).validate()


async def test_document_is_published(start_daemon: StartDaemon) -> None:
    """The daemon serves the document it was made from."""
    async with start_daemon() as daemon:
        answer = await daemon.ask("GET", "/v1/openapi.json")
        assert (answer.status, answer.body) == (200, make_document(ENDPOINTS))


def test_document_holds_the_models() -> None:
    """The document has the request, the job, the events and the error."""
    schemas = make_document(ENDPOINTS)["components"]["schemas"]
    assert {"BundleRequest", "JobView", "JobList", "Event", "Health", "ErrorResponse"} <= set(schemas)
    assert schemas["BundleRequest"]["additionalProperties"] is False


def test_every_endpoint_of_the_contract_is_there() -> None:
    """The paths and methods are those of the contract."""
    assert {(endpoint.method, endpoint.path) for endpoint in ENDPOINTS} == {
        ("POST", "/v1/jobs"),
        ("GET", "/v1/jobs"),
        ("GET", "/v1/jobs/{id}"),
        ("DELETE", "/v1/jobs/{id}"),
        ("POST", "/v1/jobs/{id}/resume"),
        ("GET", "/v1/jobs/{id}/log"),
        ("GET", "/v1/jobs/{id}/events"),
        ("GET", "/v1/jobs/{id}/log"),
        ("POST", "/v1/doctor"),
        ("POST", "/v1/queue/drain"),
        ("GET", "/v1/health"),
        ("GET", "/v1/openapi.json"),
        ("GET", "/metrics"),
    }
