"""Refuses requests that do not come from the page itself, and hardens every response.

Three things are checked before any handler runs: the request is for this machine by a name of the loopback address (a
foreign name that was made to lead here is refused), it was made by the page or typed by its user, and it carries the
secrets of the session. All texts of the page are data of others, so the browser may run and load the page's own files
only.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import TypeAlias

import structlog
from aiohttp import web

from amistream.errors import AccessDeniedError, AmistreamError, NotFoundError, UsageError
from amistream.events import ErrorBody, ErrorResponse
from amistream.web.token import Admission

Handler: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]

API = "/api/"
KEY_HEADER = "X-Amistream-Key"
TOKEN_PARAMETER = "token"  # noqa: S105 - a name
HINT = "open the address that `amistream web` prints; it works once, so start the command again for another browser"
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Server": "amistream",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
"""Headers of every response. The only image is the icon, which is in the page itself."""

_LOOPBACK = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:[0-9]{1,5})?")
"""Any port, because the page may be reached through a tunnel."""

LOG: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class Guard:
    """The middlewares in front of all handlers."""

    def __init__(self, admission: Admission, cookie_name: str) -> None:
        self._admission = admission
        self._cookie_name = cookie_name

    @web.middleware
    async def answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Turn every error into a response, and give every response its headers before it is sent."""
        try:
            return await handler(request)
        except AmistreamError as error:
            return _refusal(request, error)
        except web.HTTPException as error:
            return _refusal(request, _explain(request, error), HTTPStatus(error.status))
        except Exception as error:  # noqa: BLE001 - no traceback reaches a browser
            LOG.error("web.bug", method=request.method, path=request.path, reason=repr(error))  # noqa: TRY400 - one line
            return _refusal(
                request,
                AmistreamError("internal.bug", "cannot answer the request: a bug in amistream", hint="report it"),
            )

    @web.middleware
    async def admit(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        check_origin(request)
        buys = request.path == "/" and TOKEN_PARAMETER in request.query
        if not buys and not self._admission.knows_cookie(request.cookies.get(self._cookie_name, "")):
            raise AccessDeniedError("web.session", "cannot show the page: this browser has no session", hint=HINT)
        if request.path.startswith(API) and not self._admission.knows_key(request.headers.get(KEY_HEADER, "")):
            raise AccessDeniedError("web.key", "cannot answer: the request does not carry the page's key", hint=HINT)
        return await handler(request)


async def harden(_: web.Request, response: web.StreamResponse) -> None:
    """Give a response its headers just before it is sent."""
    response.headers.update(HEADERS)


def check_origin(request: web.Request) -> None:
    """Raise `AccessDeniedError` unless the page, or its user, made the request to an address of this machine."""
    hosts = request.headers.getall("Host", [])
    if len(hosts) != 1 or not _LOOPBACK.fullmatch(hosts[0]):
        raise AccessDeniedError(
            "web.host",
            "cannot show the page: it is for 127.0.0.1 alone, and was asked for by another name",
            hint="for another machine, forward the port: ssh -L PORT:127.0.0.1:PORT HOST",
        )
    origin = request.headers.get("Origin")
    if origin != f"http://{hosts[0]}" and (origin is not None or request.method != "GET"):
        raise AccessDeniedError("web.origin", "cannot take the request: it does not come from the page itself")
    # A navigation that nobody's page caused has "none".
    site = request.headers.get("Sec-Fetch-Site", "same-origin")
    if site not in ({"same-origin"} if request.path.startswith(API) else {"same-origin", "none"}):
        raise AccessDeniedError(
            "web.site",
            "cannot show the page: another page asked for it",
            hint="copy the address into the address bar, instead of following a link",
        )


def _refusal(request: web.Request, error: AmistreamError, status: HTTPStatus | None = None) -> web.Response:
    status = status or error.http_status
    if request.path.startswith(API):
        body = ErrorResponse(error=ErrorBody(**error.as_dict())).model_dump_json()
        return web.Response(status=status, text=body, content_type="application/json")
    return web.Response(status=status, text=f"{error}\n")


def _explain(request: web.Request, error: web.HTTPException) -> AmistreamError:
    if isinstance(error, web.HTTPNotFound):
        return NotFoundError("http.unknown_path", f"cannot find {request.path}")
    if isinstance(error, web.HTTPMethodNotAllowed):
        return UsageError("http.method", f"cannot {request.method} {request.path}: the page cannot do that")
    return UsageError("http.refused", f"cannot take the request: {error.reason}")
