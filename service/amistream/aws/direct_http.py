"""The SDK's HTTP without redirects, and, where answers are small by nature, with a bound for them.

`DirectHttp.ask` sends a request past the SDK's layer above the HTTP library, which costs a tenth of a millisecond.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from typing import Any, ClassVar, NoReturn

from aiobotocore.httpsession import AIOHTTPSession
from botocore.awsrequest import AWSRequest
from botocore.parsers import ResponseParserError
from yarl import URL

from amistream.values import MIB

LARGEST_ANSWER = 32 * MIB
"""Above the largest of EC2, a thousand AMIs with all their tags. Choice."""


class DirectHttp(AIOHTTPSession):  # type: ignore[misc, unused-ignore]  # untyped, where no stubs are installed
    """The SDK's HTTP without redirects: the HTTP library would send the session token to any host."""

    largest_answer: ClassVar[int] = 0
    """0 for no bound."""

    async def ask(self, method: str, url: str, headers: Mapping[str, str], body: Any) -> tuple[Any, bytes]:
        """Send a request whose headers are complete; returns the library's response, and its body.

        Raises the SDK's exceptions.
        """
        try:
            # The HTTP library must not say that it takes compressed answers.
            plain = {**headers, "Accept-Encoding": "identity"}
            scheme, _, _ = url.partition("//")  # nothing else of it counts, and this much is parsed once
            proxy = self._proxy_config.proxy_url_for(scheme)
            session = await self._get_session(proxy)
            response = await session.request(method, url=URL(url, encoded=True), headers=plain, data=body, proxy=proxy)
            return response, await response.read()
        except Exception as error:  # noqa: BLE001 - the SDK translates whatever comes
            await self._raise_translated(error, url)

    async def _raise_translated(self, error: Exception, url: str) -> NoReturn:
        """Let the SDK meet the error where it would have met it itself."""

        async def fail(_: Any) -> NoReturn:
            raise error

        failing = copy(self)
        failing.__dict__["_get_session"] = fail
        await failing.send(AWSRequest(method="PUT", url=url).prepare())
        raise error

    async def _get_session(self, proxy_url: Any) -> Any:
        return _Direct(await super()._get_session(proxy_url), self.largest_answer)  # type: ignore[misc, unused-ignore]


class BoundedHttp(DirectHttp):
    """The same for services whose answers the SDK reads whole: an endpoint gone mad does not fill the memory."""

    largest_answer = LARGEST_ANSWER


class _Direct:
    """A wrapper of the library's HTTP session."""

    def __init__(self, session: Any, largest_answer: int) -> None:
        self._session = session
        self._largest_answer = largest_answer

    async def request(self, method: str, **arguments: Any) -> Any:
        response = await self._session.request(method, allow_redirects=False, **arguments)
        if self._largest_answer:
            try:
                await _read(response, self._largest_answer)
            except BaseException:
                response.close()
                raise
        return response


async def _read(response: Any, most: int) -> None:
    """Read the body into the response, which keeps it for the SDK."""
    declared = response.content_length
    if declared is None:
        body = bytearray()
        async for piece in response.content.iter_any():
            body += piece
            if len(body) > most:
                break
        declared, response._body = len(body), bytes(body)  # noqa: SLF001 - where the library itself keeps it
    if declared > most:
        raise ResponseParserError(f"an answer of more than {most} bytes")
    await response.read()
