"""One SDK session and one client per service, region and endpoint, until the `Aws` is closed.

Clients are created once, because creating one reads the service's model from disk; the reading happens on a thread
beforehand. The SDK's own retries are off (`flow.retry` is the one layer), checksums are computed by our stages, and
credentials stay with the provider chain so that they refresh.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import re
import socket
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import cache
from http import HTTPStatus
from typing import Any, Self
from urllib.parse import urlsplit

from aiobotocore.config import AioConfig
from aiobotocore.parsers import AioResponseParserFactory
from botocore.exceptions import BotoCoreError
from botocore.loaders import create_loader
from botocore.parsers import ResponseParserError

from amistream.aws.dialect import Dialect, speak
from amistream.aws.direct_http import BoundedHttp, DirectHttp
from amistream.aws.network_settings import check_ca_bundle, check_proxy
from amistream.aws.providers import GuardedCredentials, Session
from amistream.aws.regions import check_region_name, on_aws
from amistream.aws.translate import CONFIGURATION_ERRORS, ProviderError, asking, translate, wanted
from amistream.errors import RefusedError
from amistream.settings import ServerEncryption, Settings
from amistream.values import AccessKeys

MOST_CONNECTIONS = 2048
"""Higher than the number of requests that all jobs can have open, so that none waits for a connection and is mistaken
for a stall.
"""
CONNECT_TIMEOUT_S = 10
_MODELS = ("s3", "ec2", "ebs", "sts")
"""The services of most jobs. The models of others are read when the first client of theirs is made."""
_REGION_VARIABLES = ("AWS_REGION", "AWS_DEFAULT_REGION")
"""The first is that of AWS's other SDKs, Lambda and ECS; this SDK reads the second only."""


class Aws:
    """The SDK's session and clients: `async with Aws(settings)`; the exit closes every connection."""

    def __init__(self, settings: Settings, keys: AccessKeys | None = None, *, profile: str = "") -> None:
        """`keys` replace the SDK's credentials. `profile` chooses a profile of its configuration files."""
        self._settings = settings
        self._profile = profile
        self._keys = keys
        self._stack = AsyncExitStack()
        self._session: Session | None = None
        self._clients: dict[tuple[str, str, str], Any] = {}
        self._making, self._loading = asyncio.Lock(), asyncio.Lock()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def client(self, service: str, region: str, endpoint_url: str) -> Any:
        """The client of `service` in a region; an empty `endpoint_url` means AWS's own. Do not close it."""
        key = (service, region, endpoint_url)
        async with self._making:
            if key not in self._clients:
                try:
                    session = await self._ready_session(region)
                    made = await self._make(session, service, region, endpoint_url)
                    check_region_name(str(made.meta.region_name), made.meta.endpoint_url)
                    check_proxy(made.meta.endpoint_url)
                    made.meta.events.register("before-call.s3", _stay)
                    self._clients[key] = made
                except (ProviderError, *CONFIGURATION_ERRORS) as error:
                    raise translate(error, f"connect to {service}") from error
                except (BotoCoreError, ValueError) as error:
                    # A URL that is none is shown without all that could be a password.
                    why = re.sub(r"(?s)//.*@", "//", str(error))
                    raise RefusedError(
                        "aws.client",
                        f"cannot connect to {service} in region {region or '(none)'}: {why}",
                        hint="check --region, --endpoint-url, and AWS_ENDPOINT_URL and its like where the job runs",
                        field="region",
                    ) from error
            return self._clients[key]

    async def _make(self, session: Session, service: str, region: str, endpoint_url: str) -> Any:
        if service not in _MODELS:
            await asyncio.to_thread(_load_model, _loader(), service)
        maker = session.create_client(
            service,
            region_name=region or None,
            endpoint_url=endpoint_url or None,
            config=self._config(session, service, endpoint_url),
        )
        made = await self._stack.enter_async_context(maker)
        real = str(made.meta.endpoint_url)
        if service == "s3" and not endpoint_url and not on_aws(real):
            # The SDK found it in its own variables or files, and the configuration depends on it.
            return await self._make(session, service, region, real)
        speak(made, Dialect(encryption=self._settings.sse is ServerEncryption.AES256))
        return made

    async def loaded_session(self) -> Session:
        """The SDK's session, read from its configuration files once."""
        # Jobs that begin together would each read the models: 40 MiB.
        async with self._loading:
            if self._session is None:
                session = await asyncio.to_thread(_load_session, self._profile, self._settings)
                if self._keys is not None:
                    session.set_credentials(self._keys.access_key, self._keys.secret_key, self._keys.token)
                self._session = session
        return self._session

    async def _ready_session(self, region: str) -> Session:
        """The SDK's session, for requests. Raises `RefusedError` for CA certificates that cannot be used."""
        session = await self.loaded_session()
        session.region = session.region or region
        for origin, path in (
            ("AWS_CA_BUNDLE or ca_bundle of the profile", session.get_config_variable("ca_bundle")),
            ("REQUESTS_CA_BUNDLE", os.environ.get("REQUESTS_CA_BUNDLE")),
        ):
            if path is not None:
                await asyncio.to_thread(check_ca_bundle, path, origin)
                break
        return session

    async def default_region(self) -> str:
        """The region of the settings, the environment or the SDK's configuration, or ''. Raises `StoreError`."""
        if self._settings.region:
            return self._settings.region
        async with asking("read the SDK's configuration"):
            return str((await self.loaded_session()).get_config_variable("region") or "")

    async def first_region(self) -> str:
        """The region to ask first: `default_region`, or one where the credentials may be known. Raises `StoreError`."""
        region = await self.default_region()
        async with asking("read the SDK's configuration"):
            return region or (await self.loaded_session()).fallback_region()

    async def has_credentials(self) -> bool:
        """True if the provider chain finds credentials. Raises `StoreError` if a provider fails."""
        return await self.credentials() is not None

    async def credentials(self, region: str = "") -> GuardedCredentials | None:
        """The credentials that the provider chain finds now. Raises `StoreError` if a provider fails.

        A role is assumed in the SDK's own region, else in `region`.
        """
        async with asking("find AWS credentials"):
            return await (await self._ready_session(region)).look_again()

    async def signing_credentials(self, region: str) -> GuardedCredentials | None:
        """The credentials that the clients sign with. They renew themselves; newer ones that are found replace them."""
        async with asking("find AWS credentials"):
            return await (await self._ready_session(region)).get_credentials()

    async def account_id(self, region: str, endpoint_url: str) -> str:
        """Look up the caller's 12-digit account id with STS. Raises `StoreError`."""
        client = await self.client("sts", region or await self.first_region(), endpoint_url)
        async with asking("look up the account id with STS", self._settings.stall_timeout_s):
            return str(wanted(await client.get_caller_identity(), "Account"))

    def _config(self, session: Session, service: str, endpoint_url: str) -> AioConfig:
        s3: dict[str, Any] = {"payload_signing_enabled": self._settings.sign_payload or _plain_and_remote(endpoint_url)}
        own_s3 = session.get_scoped_config().get("s3")
        if endpoint_url and not (isinstance(own_s3, dict) and "addressing_style" in own_s3):
            s3["addressing_style"] = "path"
        return AioConfig(
            connector_args={"socket_factory": _socket_that_gives_up(self._settings.stall_timeout_s)},
            connect_timeout=CONNECT_TIMEOUT_S,
            read_timeout=self._settings.stall_timeout_s,
            max_pool_connections=MOST_CONNECTIONS,
            retries={"total_max_attempts": 1, "mode": "standard"},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            s3=s3 if service == "s3" else None,
            user_agent_extra="amistream",
            http_session_cls=DirectHttp if service == "s3" else BoundedHttp,
        )


class _Parsers(AioResponseParserFactory):  # type: ignore[misc, unused-ignore]  # the same
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


def _stay(context: dict[str, Any], **_: Any) -> None:
    """Keep the SDK from following a bucket to another region: without a named region it does so endlessly."""
    if "s3_redirect" in context:
        context["s3_redirect"]["redirected"] = True


def _load_session(profile: str, settings: Settings) -> Session:
    # A provider that hangs is to be blamed before the request is that waits for it.
    session = Session(settings.stall_timeout_s / 2, settings.region)
    if profile:
        session.set_config_variable("profile", profile)
    # An empty variable would hide the next one.
    variables = [name for name in _REGION_VARIABLES if os.environ.get(name)]
    session.session_var_map["region"] = ("region", variables, None, None)
    session.register_component("data_loader", _loader())
    session.register_component("response_parser_factory", _Parsers())
    return session


@cache
def _loader() -> Any:
    """The SDK's service models, read once per process."""
    loader = create_loader()
    for service in _MODELS:
        _load_model(loader, service)
    loader.load_data("endpoints")
    return loader


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


def _plain_and_remote(endpoint_url: str) -> bool:
    """True if an unsigned body could be changed on the way: no TLS, and not this machine."""
    parts = urlsplit(endpoint_url)
    if parts.scheme != "http":
        return False
    try:
        return not ipaddress.ip_address(parts.hostname or "").is_loopback
    except ValueError:
        return parts.hostname != "localhost"
