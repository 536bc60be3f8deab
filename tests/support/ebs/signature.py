"""Checks the Signature Version 4 of a request, computed again by botocore from what came over the wire."""

from __future__ import annotations

import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

LARGEST_SKEW_S = 15 * 60
UNSIGNED = "UNSIGNED-PAYLOAD"
_AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256 Credential=([^/,]+)/(\d{8})/([^/,]*)/([^/,]+)/aws4_request,\s*"
    r"SignedHeaders=([^,]+),\s*Signature=([0-9a-f]{64})"
)


@dataclass
class BadSignature(Exception):  # noqa: N818 - an answer, not a fault of the double
    """A request that AWS does not accept as signed. `kind` is missing, expired or mismatch."""

    kind: str
    message: str


@dataclass(frozen=True)
class Signature:
    """The parts of an Authorization header."""

    access_key: str
    day: str
    region: str
    service: str
    signed: tuple[str, ...]
    signature: str

    @classmethod
    def parse(cls, header: str) -> Signature:
        found = _AUTHORIZATION.fullmatch(header)
        if found is None:
            raise BadSignature("missing", "there is no Authorization header of Signature Version 4")
        key, day, region, service, signed, signature = found.groups()
        return cls(key, day, region, service, tuple(signed.split(";")), signature)

    def check(
        self,
        *,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: bytes,
        secret: str,
        region: str,
        now: float,
        may_be_unsigned: bool,
    ) -> None:
        """Raise BadSignature unless the secret made this signature for this very request, a short while ago."""
        date = headers.get("x-amz-date", "")
        try:
            at = datetime.strptime(date, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp()
        except ValueError:
            raise BadSignature("missing", "X-Amz-Date is not a time") from None
        if abs(at - now) > LARGEST_SKEW_S:
            raise BadSignature("expired", f"Signature expired: {date} is more than 15 minutes away")
        if self.day != date[:8] or self.region != region:
            raise BadSignature("mismatch", f"Credential should be scoped to {date[:8]} and to {region}")
        names = {name.lower() for name in headers}
        for name in sorted({"host", "x-amz-date"} | {name for name in names if name.startswith("x-amz-")}):
            if name not in self.signed:
                raise BadSignature("mismatch", f"the header {name} must be signed")
        content = headers.get("x-amz-content-sha256")
        if content == UNSIGNED and not may_be_unsigned:
            raise BadSignature("mismatch", "the body of this operation must be signed")
        if content not in {None, UNSIGNED} and content != sha256(body).hexdigest():
            raise BadSignature("mismatch", "x-amz-content-sha256 is not that of the body")
        if not hmac.compare_digest(self._computed(method, target, headers, body, secret, date), self.signature):
            raise BadSignature("mismatch", "The request signature we calculated does not match the one you provided")

    def _computed(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes, secret: str, date: str
    ) -> str:
        signed = {name: headers.get(name, "") for name in self.signed}
        request = AWSRequest(method=method, url=f"http://{headers.get('host')}{target}", headers=signed, data=body)
        request.context["timestamp"] = date
        auth = SigV4Auth(Credentials(self.access_key, secret), self.service, self.region)
        made: str = auth.signature(auth.string_to_sign(request, auth.canonical_request(request)), request)
        return made
