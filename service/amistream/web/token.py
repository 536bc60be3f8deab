"""Admits one browser: a token that works once buys the two secrets that every later request must carry.

The cookie alone would not be enough: a browser sends the cookies of 127.0.0.1 to the servers of all its ports. The key
is kept by the page in storage of its own port, and no request carries it by itself.
"""

from __future__ import annotations

import hmac
import secrets
from dataclasses import dataclass

_BYTES = 24


@dataclass(frozen=True, slots=True)
class Session:
    """The secrets of the browser that was admitted."""

    cookie: str
    key: str


class Admission:
    """Holds the token until it is used, then the session that it bought."""

    def __init__(self) -> None:
        self.token = secrets.token_urlsafe(_BYTES)
        self._used = False
        self._session: Session | None = None

    def exchange(self, token: str) -> Session | None:
        """The session for the token, once; None for a wrong token, and for the right one later on."""
        if self._used or not _same(token, self.token):
            return None
        self._used = True
        self._session = Session(secrets.token_urlsafe(_BYTES), secrets.token_urlsafe(_BYTES))
        return self._session

    def knows_cookie(self, cookie: str) -> bool:
        return self._session is not None and _same(cookie, self._session.cookie)

    def knows_key(self, key: str) -> bool:
        return self._session is not None and _same(key, self._session.key)


def _same(given: str, expected: str) -> bool:
    """Compare in a time that does not depend on the place of the first difference."""
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), expected.encode())
