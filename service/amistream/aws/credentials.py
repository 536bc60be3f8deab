"""Describes the credentials of the SDK's provider chain: their origin and expiry, never their values."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from botocore.credentials import RefreshableCredentials
from botocore.exceptions import NoCredentialsError

from amistream.aws.session import Aws
from amistream.aws.translate import asking, translate
from amistream.errors import StoreError

_ORIGINS = {
    "env": "the environment",
    "shared-credentials-file": "the credentials file",
    "config-file": "the configuration file",
    "assume-role": "an assumed role",
    "assume-role-with-web-identity": "an assumed role",
    "sso": "IAM Identity Center",
    "login": "aws login",
    "custom-process": "a credential process",
    "container-role": "the container's role",
    "iam-role": "the instance's role",
}
"""Descriptions of the SDK's providers, by their names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CredentialFacts:
    """`expires_at` is None where unknown; for credentials that renew themselves it does not matter."""

    origin: str
    temporary: bool
    expires_at: datetime | None
    renews: bool


async def find_credentials(aws: Aws) -> CredentialFacts | None:
    """Describe the credentials, or return None without any. Raises `StoreError` when the chain itself fails."""
    try:
        async with asking("find AWS credentials"):
            found: Any = await (await aws.loaded_session()).get_credentials()
    except ValueError as error:
        raise StoreError(
            "aws.credentials",
            f"cannot find AWS credentials: AWS_CREDENTIAL_EXPIRATION is not a time ({error})",
            hint="write it as 2030-01-31T12:00:00Z, or unset it",
        ) from error
    if found is None:
        return None
    method = str(found.method or "")
    refreshes = isinstance(found, RefreshableCredentials)
    return CredentialFacts(
        origin=_ORIGINS.get(method, method),
        temporary=refreshes or found.token is not None,
        # No public attribute has it. Credentials in the environment may expire too, but never change.
        expires_at=getattr(found, "_expiry_time", None),
        renews=refreshes and method != "env",
    )


def no_credentials(what: str) -> StoreError:
    """The error for missing credentials."""
    return translate(NoCredentialsError(), what)
