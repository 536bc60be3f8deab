"""Errors in the words of each service: JSON of `ebs`, XML of `ec2` and `sts`."""

from __future__ import annotations

import json

from aiohttp import web

from support.ebs import query
from support.ebs.direct import Answer
from support.ebs.rules import Refusal
from support.ebs.signature import BadSignature

_SIGNATURE_ERRORS = {
    # kind: (EBS, EC2 and STS)
    "missing": (("MissingAuthenticationTokenException", 403), ("AuthFailure", 401)),
    "unknown": (("UnrecognizedClientException", 403), ("AuthFailure", 401)),
    "expired": (("InvalidSignatureException", 403), ("RequestExpired", 400)),
    "mismatch": (("InvalidSignatureException", 403), ("SignatureDoesNotMatch", 403)),
}


def ebs_refusal(bad: BadSignature) -> Refusal:
    return Refusal(*_SIGNATURE_ERRORS[bad.kind][0], bad.message)


def ec2_refusal(bad: BadSignature) -> Refusal:
    return Refusal(*_SIGNATURE_ERRORS[bad.kind][1], bad.message)


def ebs_error(refusal: Refusal) -> Answer:
    body: dict[str, str] = {"Message": refusal.message}
    if refusal.reason:
        body["Reason"] = refusal.reason
    headers = {"Content-Type": "application/json", "x-amzn-ErrorType": refusal.code}
    return Answer(refusal.status, headers, json.dumps(body).encode())


def bad_signature(bad: BadSignature, service: str, marked: str) -> web.Response:
    """Answer a request whose account is not known."""
    if service == "ebs":
        answer = ebs_error(ebs_refusal(bad))
        return web.Response(
            status=answer.status, headers=answer.headers | {"x-amzn-RequestId": marked}, body=answer.body
        )
    refusal = ec2_refusal(bad)
    text = query.error(refusal.code, refusal.message, marked)
    return web.Response(status=refusal.status, content_type="text/xml", body=text)
