"""Block and page tokens: opaque, bound to what they were given for, new with each listing, and expiring."""

from __future__ import annotations

import base64
import binascii
import hmac
import secrets
from hashlib import sha256

from support.ebs.account import Account
from support.ebs.rules import invalid


class Tokens:
    """The tokens of one account."""

    def __init__(self, account: Account) -> None:
        self._account = account
        self._secret = secrets.token_bytes(16)

    def block(self, snapshot: str, index: int) -> str:
        return self._make(f"block {snapshot} {index} {secrets.token_hex(4)}")

    def check_block(self, token: str, snapshot: str, index: int) -> None:
        words, at = self._open(token, "INVALID_BLOCK_TOKEN")
        if words[:3] != ["block", snapshot, str(index)]:
            raise invalid("INVALID_BLOCK_TOKEN", "the token belongs to another block")
        self._require_fresh(at, self._account.knobs.block_token_seconds, "INVALID_BLOCK_TOKEN")

    def page(self, operation: str, snapshot: str, start: int, empty: int) -> str:
        """Return a token for the page that begins at the block `start`, after so many more empty ones."""
        return self._make(f"{operation} {snapshot} {start} {empty}")

    def check_page(self, token: str, operation: str, snapshot: str) -> tuple[int, int]:
        words, at = self._open(token, "INVALID_PAGE_TOKEN")
        if words[:2] != [operation, snapshot]:
            raise invalid("INVALID_PAGE_TOKEN", "the token belongs to another listing")
        self._require_fresh(at, self._account.knobs.page_token_seconds, "INVALID_PAGE_TOKEN")
        return int(words[2]), int(words[3])

    def _make(self, words: str) -> str:
        text = f"{words} {self._account.now:.6f}".encode()
        return base64.b64encode(hmac.digest(self._secret, text, sha256)[:12] + text).decode()

    def _open(self, token: str, reason: str) -> tuple[list[str], float]:
        try:
            raw = base64.b64decode(token, validate=True)
        except binascii.Error:
            raw = b""
        if not hmac.compare_digest(hmac.digest(self._secret, raw[12:], sha256)[:12], raw[:12]):
            raise invalid(reason, "this is no token of this endpoint")
        *words, at = raw[12:].decode().split(" ")
        return words, float(at)

    def _require_fresh(self, at: float, seconds: float, reason: str) -> None:
        if at < self._account.tokens_since or self._account.now - at > seconds:
            raise invalid(reason, "the token is expired")
