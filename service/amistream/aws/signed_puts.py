"""Signs the puts of one snapshot: the SDK's signer makes a whole request once, and each put differs in a few values.

A signature of its own for each request takes the SDK a fifth of the CPU time of hashing a block.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from botocore import auth
from botocore.auth import SIGV4_TIMESTAMP, SigV4Auth

from amistream.ports.snapshots import ZERO_DIGEST

_DAY = len("YYYYMMDD")
_FIRST = 0
_ZEROS = b64encode(ZERO_DIGEST).decode()
"""The block in the request that the SDK's signer makes: its index and checksum."""


@dataclass(slots=True, kw_only=True)
class SignableRequest:
    """Those attributes of the SDK's requests that its signer and its HTTP session use."""

    method: str
    url: str
    headers: dict[str, str]
    body: Any = None
    params: dict[str, str] = field(default_factory=dict)
    context: dict[str, Any] = field(default_factory=dict)
    stream_output: bool = False


class SignedPuts:
    """Puts of one snapshot, signed with the same keys on the same day."""

    def __init__(self, url: str, headers: Mapping[str, str], keys: Any, service: str, region: str) -> None:
        """`url` is that of the snapshot's blocks, `headers` are those that all puts have.

        Raises the SDK's exception if there are no `keys`.
        """
        self._url, self._keys = url, keys
        self._signer = _Signer(keys, service, region)
        first = SignableRequest(
            method="PUT",
            url=f"{url}/{_FIRST}",
            headers={**headers, "x-amz-Checksum": _ZEROS},
            context={"payload_signing_enabled": False},
        )
        self._signer.add_auth(first)
        self.made_at = timestamp = str(first.context["timestamp"])
        self._day = timestamp[:_DAY]
        # In this order: the path is first, and the headers are sorted.
        self._method, _, rest = self._signer.canonical.partition(f"/{_FIRST}\n")
        self._to_checksum, _, rest = rest.partition(f":{_ZEROS}\n")
        self._to_time, _, self._rest = rest.partition(f":{timestamp}\n")
        self._headers = first.headers
        self._authorization = first.headers["Authorization"].rpartition("=")[0]

    def good(self, url: str, keys: Any, timestamp: str) -> bool:
        """True for puts below this URL with these keys at this time."""
        return (self._url, self._keys, self._day) == (url, keys, timestamp[:_DAY])

    def sign(self, index: int, checksum: str, timestamp: str) -> dict[str, str]:
        """All headers of the put of a block, for a time for which they are `good`."""
        canonical = f"{self._method}/{index}\n{self._to_checksum}:{checksum}\n{self._to_time}:{timestamp}\n{self._rest}"
        request = SignableRequest(method="PUT", url="", headers={}, context={"timestamp": timestamp})
        signature = self._signer.signature(self._signer.string_to_sign(request, canonical), request)
        return {
            **self._headers,
            "x-amz-Checksum": checksum,
            "X-Amz-Date": timestamp,
            "Authorization": f"{self._authorization}={signature}",
        }


def timestamp_now() -> str:
    """The time as signatures have it."""
    return str(auth.get_current_datetime().strftime(SIGV4_TIMESTAMP))


class _Signer(SigV4Auth):  # type: ignore[misc, unused-ignore]  # untyped, where no stubs are installed
    """The SDK's signer, which keeps the text that it signed first, and the keys that it derived of the secret one."""

    def __init__(self, keys: Any, service: str, region: str) -> None:
        super().__init__(keys, service, region)
        self.canonical = ""
        self._derived: dict[tuple[bytes, str], bytes] = {}

    def canonical_request(self, request: Any) -> str:
        self.canonical = super().canonical_request(request)
        return self.canonical

    def _sign(self, key: bytes, msg: str, hex: bool = False) -> Any:  # noqa: A002 - the SDK's name
        if hex:
            return super()._sign(key, msg, hex)
        step = key, msg
        if step not in self._derived:
            self._derived[step] = super()._sign(key, msg)
        return self._derived[step]
