"""One SDK session and one client per service, region and endpoint, until the `Aws` is closed.

Clients are created once, because creating one reads the service's model from disk; the reading happens on a thread
beforehand, and so does the loading of the SDK itself (`sdk`), before the first of them. A job that asks nothing of AWS
loads neither the SDK nor the table of its errors. The SDK's own retries are off
(`flow.retry` is the one layer), checksums are computed by our stages, and credentials stay with the provider chain so
that they refresh.
"""

from __future__ import annotations

import asyncio
import os
import re
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import TYPE_CHECKING, Any, Self

from amistream.aws.network_settings import check_ca_bundle, check_proxy
from amistream.aws.regions import check_region_name, on_aws
from amistream.errors import RefusedError
from amistream.settings import ServerEncryption, Settings
from amistream.values import AccessKeys

if TYPE_CHECKING:
    from amistream.aws.providers import GuardedCredentials
    from amistream.aws.sdk import Session


class Aws:
    """The SDK's session and clients: `async with Aws(settings)`; the exit closes every connection."""

    def __init__(self, settings: Settings, keys: AccessKeys | None = None, *, profile: str = "") -> None:
        """`keys` replace the SDK's credentials. `profile` chooses a profile of its configuration files."""
        self._settings = settings
        self._profile = profile
        self._keys = keys
        self._stack = AsyncExitStack()
        self._session: Session | None = None
        self._is_bundle_checked = False
        self._clients: dict[tuple[str, str, str], Any] = {}
        self._making, self._loading = asyncio.Lock(), asyncio.Lock()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def client(self, service: str, region: str, endpoint_url: str) -> Any:
        """The client of `service` in a region; an empty `endpoint_url` means AWS's own. Do not close it."""
        from botocore.exceptions import BotoCoreError

        from amistream.aws.translate import CONFIGURATION_ERRORS, ProviderError, translate

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
        from amistream.aws.dialect import Dialect, speak
        from amistream.aws.sdk import make_config, read_model

        await asyncio.to_thread(read_model, service)
        maker = session.create_client(
            service,
            region_name=region or None,
            endpoint_url=endpoint_url or None,
            config=make_config(self._settings, session, service, endpoint_url),
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
                session = await asyncio.to_thread(_loaded, self._profile, self._settings)
                if self._keys is not None:
                    session.set_credentials(self._keys.access_key, self._keys.secret_key, self._keys.token)
                self._session = session
        return self._session

    async def _ready_session(self, region: str) -> Session:
        """The SDK's session, for requests. Raises `RefusedError` for CA certificates that cannot be used."""
        session = await self.loaded_session()
        session.region = session.region or region
        if not self._is_bundle_checked:
            await self._check_ca_bundle(session)
            self._is_bundle_checked = True
        return session

    async def _check_ca_bundle(self, session: Session) -> None:
        """Loading the certificates of a system takes 30 ms of CPU: check them once, not for each client."""
        for origin, path in (
            ("AWS_CA_BUNDLE or ca_bundle of the profile", session.get_config_variable("ca_bundle")),
            ("REQUESTS_CA_BUNDLE", os.environ.get("REQUESTS_CA_BUNDLE")),
        ):
            if path is not None:
                await asyncio.to_thread(check_ca_bundle, path, origin)
                break

    async def default_region(self) -> str:
        """The region of the settings, the environment or the SDK's configuration, or ''. Raises `StoreError`."""
        if self._settings.region:
            return self._settings.region
        async with _asking("read the SDK's configuration"):
            return str((await self.loaded_session()).get_config_variable("region") or "")

    async def first_region(self) -> str:
        """The region to ask first: `default_region`, or one where the credentials may be known. Raises `StoreError`."""
        region = await self.default_region()
        async with _asking("read the SDK's configuration"):
            return region or (await self.loaded_session()).fallback_region()

    async def has_credentials(self) -> bool:
        """True if the provider chain finds credentials. Raises `StoreError` if a provider fails."""
        return await self.credentials() is not None

    async def credentials(self, region: str = "") -> GuardedCredentials | None:
        """The credentials that the provider chain finds now. Raises `StoreError` if a provider fails.

        A role is assumed in the SDK's own region, else in `region`.
        """
        async with _asking("find AWS credentials"):
            return await (await self._ready_session(region)).look_again()

    async def signing_credentials(self, region: str) -> GuardedCredentials | None:
        """The credentials that the clients sign with. They renew themselves; newer ones that are found replace them."""
        async with _asking("find AWS credentials"):
            return await (await self._ready_session(region)).get_credentials()

    async def account_id(self, region: str, endpoint_url: str) -> str:
        """Look up the caller's 12-digit account id with STS. Raises `StoreError`."""
        from amistream.aws.translate import wanted

        client = await self.client("sts", region or await self.first_region(), endpoint_url)
        async with _asking("look up the account id with STS", self._settings.stall_timeout_s):
            return str(wanted(await client.get_caller_identity(), "Account"))


def _asking(what: str, timeout_s: float | None = None) -> AbstractAsyncContextManager[None]:
    from amistream.aws.translate import asking

    return asking(what, timeout_s)


def _stay(context: dict[str, Any], **_: Any) -> None:
    """Keep the SDK from following a bucket to another region: without a named region it does so endlessly."""
    if "s3_redirect" in context:
        context["s3_redirect"]["redirected"] = True


def _loaded(profile: str, settings: Settings) -> Session:
    from amistream.aws.sdk import load_session

    return load_session(profile, settings)
