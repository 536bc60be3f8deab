"""An instance's metadata service for other processes, and an endpoint whose programs find it."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from dataclasses import dataclass, fields
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

from support.endpoints import Endpoint

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

PREFIX = "/latest/meta-data/"


@dataclass(frozen=True, kw_only=True)
class OnInstance(Endpoint):
    """An endpoint as programs on an instance see it: with metadata."""

    metadata_url: str

    def environ(self) -> dict[str, str]:
        return {**super().environ(), "AWS_EC2_METADATA_SERVICE_ENDPOINT": self.metadata_url}


@contextmanager
def on_instance(endpoint: Endpoint, data: Mapping[str, str]) -> Iterator[OnInstance]:
    """Serve `data`, by path below meta-data, with version 2's token; the rest is 404."""

    class Service(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            self._answer("a-token")

        def do_GET(self) -> None:
            self._answer(data.get(self.path.removeprefix(PREFIX)))

        def _answer(self, text: str | None) -> None:
            body = (text or "").encode()
            self.send_response(404 if text is None else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Write nothing to stderr."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Service) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            given = {field.name: getattr(endpoint, field.name) for field in fields(Endpoint)}
            yield OnInstance(**given, metadata_url=f"http://127.0.0.1:{server.server_port}")
        finally:
            server.shutdown()
