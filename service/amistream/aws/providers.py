"""The one border to the SDK's credential providers: whatever they raise becomes a `ProviderError`.

Everything that makes, renews or uses credentials goes through `Session.get_credentials` and the `GuardedCredentials`
that it returns. Programs run within bounds (`credential_process`), MFA codes are asked for at a terminal only, and no
provider takes longer than its patience. Keys are checked before the SDK keeps them.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime
from getpass import getpass
from inspect import isawaitable
from pathlib import Path
from typing import Any

from aiobotocore.credentials import AioAssumeRoleProvider, AioProcessProvider, create_credential_resolver
from aiobotocore.session import AioSession
from botocore.credentials import ReadOnlyCredentials, RefreshableCredentials
from botocore.utils import parse_timestamp

from amistream.aws.credential_process import run_credential_process
from amistream.aws.provider_errors import MFA_FIX, Border
from amistream.aws.regions import region_of_role
from amistream.aws.translate import ProviderError


class Session(AioSession):  # type: ignore[misc, unused-ignore]  # untyped, where no stubs are installed
    """The SDK's session, whose credentials come through the border."""

    def __init__(self, patience_s: float, region: str) -> None:
        """`patience_s` is the time for a provider to answer."""
        super().__init__()
        self._patience_s = patience_s
        self.region = region
        """Where a role is assumed, if the SDK's own configuration has no region."""
        self._found: GuardedCredentials | None = None
        self._files_then: list[tuple[int, int]] = []
        """The configuration files when the credentials were found."""

    def set_credentials(
        self, access_key: str, secret_key: str, token: str | None = None, account_id: str | None = None
    ) -> None:
        """Use these instead of the chain's. Raises `ProviderError` for keys that no request can have."""
        super().set_credentials(access_key, secret_key, token, account_id)
        self._found = GuardedCredentials(self._credentials, self._border("explicit"), self._patience_s)

    async def get_credentials(self) -> GuardedCredentials | None:
        """The credentials of the first provider that has some, or None. Raises `ProviderError`."""
        if self._found is None:
            self._found = await self._find()
        return self._found

    async def look_again(self) -> GuardedCredentials | None:
        """Like `get_credentials`, found anew where a file may have newer ones.

        Credentials that renew themselves are found anew only if the SDK's configuration files have changed.
        Every client that was made with the older ones signs with the newer ones from now on.
        """
        old = self._found
        if old is None or old.method in {"explicit", "env"}:
            return await self.get_credentials()
        if old.refreshes and self._files_then == self._files_now():
            return old
        self._config = self._profile_map = None  # of the SDK, which reads its files once
        if (new := await self._find()) is not None:
            old.take_over(new)
        return old

    def _files_now(self) -> list[tuple[int, int]]:
        """Time and size of the configuration files that there are."""
        found = []
        for name in ("config_file", "credentials_file"):
            with suppress(OSError):
                facts = os.stat(os.path.expanduser(self.get_config_variable(name)))  # noqa: PTH111, PTH116 - as the SDK
                found.append((facts.st_mtime_ns, facts.st_size))
        return found

    async def _find(self) -> GuardedCredentials | None:
        files = self._files_now()
        with self._border("").guarding():
            region = self.get_config_variable("region") or self.region or self.fallback_region()
            providers = create_credential_resolver(self, region_name=region).providers
        for provider in providers:
            self._restrain(provider)
            border = self._border(provider.METHOD)
            with border.guarding():
                async with asyncio.timeout(self._patience_s):
                    found = await provider.load()
                if found is not None:
                    guarded = GuardedCredentials(found, border, self._patience_s)
                    self._files_then = files
                    return guarded
        await asyncio.to_thread(_check_named_files)
        return None

    def fallback_region(self) -> str:
        """The region to begin in where none is named: one of the partition of the role that the profile assumes."""
        return region_of_role(self.get_scoped_config().get("role_arn") or os.environ.get("AWS_ROLE_ARN") or "")

    def _border(self, method: str) -> Border:
        files = {name: self.get_config_variable(name) for name in ("config_file", "credentials_file")}
        return Border(method, files, self.get_config_variable("profile") or "default")

    def _restrain(self, provider: Any) -> None:
        """Let the provider run programs within bounds only, and ask for MFA codes at a terminal only."""
        if isinstance(provider, AioProcessProvider):
            provider._popen = run_credential_process  # noqa: SLF001 - the SDK makes the providers itself
        if isinstance(provider, AioAssumeRoleProvider):
            provider._prompter = _ask_at_terminal  # noqa: SLF001 - the same
            builder = provider._profile_provider_builder  # noqa: SLF001 - the same
            builder._create_process_provider = self._process_provider  # noqa: SLF001 - the same

    def _process_provider(self, profile_name: str) -> AioProcessProvider:
        """The provider of a role's source."""
        return AioProcessProvider(
            profile_name=profile_name, load_config=lambda: self.full_config, popen=run_credential_process
        )


class GuardedCredentials:
    """Stands for the SDK's credentials: every request is signed with `get_frozen_credentials`."""

    def __init__(self, inner: Any, border: Border, patience_s: float) -> None:
        """Raises `ProviderError` for keys that no request can have."""
        self._inner = inner
        self._border = border
        self._patience_s = patience_s
        self.method = border.method
        self._given: ReadOnlyCredentials | None = None
        """The keys as they came last; `_cleaned` are the same, checked."""
        self._cleaned: ReadOnlyCredentials | None = None
        self.refreshes = isinstance(inner, RefreshableCredentials)
        keys = inner
        if self.refreshes:
            # The SDK keeps whatever it is given until that expires.
            inner._refresh_using = self._checking(inner._refresh_using)  # noqa: SLF001 - nothing public does
            keys = inner._frozen_credentials  # noqa: SLF001 - the same; None before the first use of some
        if keys is not None:
            border.cleaned(keys.access_key, keys.secret_key, keys.token)

    def take_over(self, newer: GuardedCredentials) -> None:
        """Become the newer credentials."""
        self.__dict__.update(newer.__dict__)

    @property
    def expires_at(self) -> datetime | None:
        """None where unknown."""
        return getattr(self._inner, "_expiry_time", None)

    @property
    def temporary(self) -> bool:
        return self.refreshes or bool(self._inner.token)

    async def get_frozen_credentials(self) -> ReadOnlyCredentials:
        """The keys to sign with now, renewed where needed. Raises `ProviderError`."""
        with self._border.guarding():
            given = await (self._renewed() if self.refreshes else self._inner.get_frozen_credentials())
            if self._cleaned is None or given != self._given:
                keys = self._border.cleaned(given.access_key, given.secret_key, given.token)
                self._given, self._cleaned = given, ReadOnlyCredentials(*keys, given.account_id)
            return self._cleaned

    async def _renewed(self) -> Any:
        async with asyncio.timeout(self._patience_s):
            return await self._inner.get_frozen_credentials()

    async def get_account_id(self) -> Any:
        """For the SDK, whose rules for some services' endpoints want it."""
        return (await self.get_frozen_credentials()).account_id

    def get_deferred_property(self, _: str) -> Callable[[], Awaitable[Any]]:
        """For the SDK, which asks for the account id so."""
        return self.get_account_id

    def _checking(self, renew: Callable[[], Any]) -> Callable[[], Awaitable[dict[str, Any]]]:
        async def renewed() -> dict[str, Any]:
            with self._border.guarding():
                answer = renew()
                found: dict[str, Any] = await answer if isawaitable(answer) else answer
                if not found:
                    raise ProviderError(said="it gives no credentials any more", transient=True)
                self._border.cleaned(found["access_key"], found["secret_key"], found["token"])
                if parse_timestamp(found["expiry_time"]) <= datetime.now(UTC):
                    raise ProviderError(said="the credentials that it gives have expired")
                return found

        return renewed


def _check_named_files() -> None:
    """Refuse a variable that names a file without use, once nothing has given credentials. Blocks on files."""
    for variable in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        named = os.environ.get(variable) or os.devnull
        path = Path(os.path.expanduser(named))  # noqa: PTH111 - that of pathlib raises for an unknown user
        if path.is_dir():
            raise ProviderError(said="it is a directory", place=f"{variable} ({path})")
        if not os.access(path, os.R_OK):
            raise ProviderError(
                said="it cannot be read" if path.exists() else "it does not exist", place=f"{variable} ({path})"
            )


def _ask_at_terminal(prompt: str) -> str:
    if not (sys.stdin and sys.stdin.isatty()):
        raise ProviderError(said="its MFA code is asked for at a terminal only", fix=MFA_FIX)
    return getpass(prompt)
