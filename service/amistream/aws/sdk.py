"""The AWS SDK set up as this program needs it: session, service models, configuration of clients, parsers.

Loaded by the first request of a process: the SDK takes a fifth of a second, and most commands send none.
"""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Callable
from functools import cache
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

from aiobotocore.config import AioConfig
from aiobotocore.parsers import AioResponseParserFactory
from botocore.loaders import create_loader
from botocore.parsers import ResponseParserError

from amistream.aws.direct_http import BoundedHttp, DirectHttp
from amistream.aws.providers import Session
from amistream.aws.translate import wanted
from amistream.settings import Settings

__all__ = ["Session", "load_session", "make_config", "read_model"]

MOST_CONNECTIONS = 2048
"""Higher than the number of requests that all jobs can have open, so that none waits for a connection and is mistaken
for a stall.
"""
CONNECT_TIMEOUT_S = 10
_MODELS = ("s3", "ec2", "ebs", "sts")
"""The services of most jobs. The models of others are read when the first client of theirs is made."""
_REGION_VARIABLES = ("AWS_REGION", "AWS_DEFAULT_REGION")
"""The first is that of AWS's other SDKs, Lambda and ECS; this SDK reads the second only."""


def load_session(profile: str, settings: Settings) -> Session:
    # A provider that hangs is to be blamed before the request is that waits for it.
    session = Session(settings.stall_timeout_s / 2, settings.region)
    if profile:
        session.set_config_variable("profile", profile)
    # An empty variable would hide the next one.
    variables = [name for name in _REGION_VARIABLES if os.environ.get(name)]
    session.session_var_map["region"] = ("region", variables, None, None)
    session.register_component("data_loader", _loader())
    session.register_component("response_parser_factory", Parsers())
    return session


@cache
def _loader() -> Any:
    """The SDK's service models, read once per process."""
    loader = create_loader()
    for service in _MODELS:
        _load_model(loader, service)
    loader.load_data("endpoints")
    return loader


def read_model(service: str) -> None:
    """Read the model of a service, if it is none of those that are read at the start."""
    if service not in _MODELS:
        _load_model(_loader(), service)


def _load_model(loader: Any, service: str) -> None:
    loader.load_service_model(service, "service-2")
    loader.load_service_model(service, "endpoint-rule-set-1")


def _socket_that_gives_up(after_s: float) -> Callable[[Any], socket.socket]:
    """Make sockets that the kernel closes when sent bytes stay unacknowledged, or unsendable, for `after_s` seconds.

    Without it, a closed connection whose peer no longer reads would be kept, with its data, for many minutes.
    """

    def make(address: Any) -> socket.socket:
        family, kind, protocol, _, _ = address
        made = socket.socket(family, kind, protocol)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(after_s * 1000))
        return made

    return make


def make_config(settings: Settings, session: Session, service: str, endpoint_url: str) -> AioConfig:
    s3: dict[str, Any] = {"payload_signing_enabled": settings.sign_payload or _plain_and_remote(endpoint_url)}
    own_s3 = session.get_scoped_config().get("s3")
    if endpoint_url and not (isinstance(own_s3, dict) and "addressing_style" in own_s3):
        s3["addressing_style"] = "path"
    return AioConfig(
        connector_args={"socket_factory": _socket_that_gives_up(settings.stall_timeout_s)},
        connect_timeout=CONNECT_TIMEOUT_S,
        read_timeout=settings.stall_timeout_s,
        max_pool_connections=MOST_CONNECTIONS,
        retries={"total_max_attempts": 1, "mode": "standard"},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        s3=s3 if service == "s3" else None,
        user_agent_extra="amistream",
        http_session_cls=DirectHttp if service == "s3" else BoundedHttp,
    )


def _plain_and_remote(endpoint_url: str) -> bool:
    """True if an unsigned body could be changed on the way: no TLS, and not this machine."""
    parts = urlsplit(endpoint_url)
    if parts.scheme != "http":
        return False
    try:
        return not ipaddress.ip_address(parts.hostname or "").is_loopback
    except ValueError:
        return parts.hostname != "localhost"


class Parsers(AioResponseParserFactory):  # type: ignore[misc, unused-ignore]  # the same
    """The SDK's parsers, as `_Parser`s."""

    def create_parser(self, protocol_name: str) -> Any:
        return _Parser(super().create_parser(protocol_name))


class _Parser:
    """A parser that raises `ResponseParserError` for every reply that it cannot read, whatever it has."""

    def __init__(self, parser: Any) -> None:
        self._parser = parser

    async def parse(self, response: Any, shape: Any) -> Any:
        try:
            parsed = await self._parser.parse(response, shape)
            if response["status_code"] < HTTPStatus.MULTIPLE_CHOICES and shape and shape.name.startswith("AssumeRole"):
                # The SDK itself reads this one, and raises a KeyError.
                wanted(parsed, "Credentials", "SessionToken")
            return parsed
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise ResponseParserError(type(error).__name__) from error
