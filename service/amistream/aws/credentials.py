"""Describes the credentials of the SDK's provider chain: their origin and expiry, never their values."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from botocore.exceptions import NoCredentialsError

from amistream.aws.provider_errors import NAMES
from amistream.aws.session import Aws
from amistream.aws.translate import asking, translate
from amistream.errors import StoreError


@dataclass(frozen=True, slots=True, kw_only=True)
class CredentialFacts:
    """`expires_at` is None where unknown; for credentials that renew themselves it does not matter."""

    origin: str
    temporary: bool
    expires_at: datetime | None
    renews: bool


async def find_credentials(aws: Aws, region: str = "") -> CredentialFacts | None:
    """Describe the credentials, or return None without any. Raises `StoreError` when the chain itself fails.

    A role is assumed in the SDK's own region, else in `region`.
    """
    async with asking("find AWS credentials"):
        found = await aws.credentials(region)
        if found is None:
            return None
        if found.method != "env":
            # Some providers do nothing before the first use.
            await found.get_frozen_credentials()
    return CredentialFacts(
        origin=NAMES.get(found.method, found.method),
        temporary=found.temporary,
        expires_at=found.expires_at,
        # Credentials in the environment never change.
        renews=found.refreshes and found.method != "env",
    )


def no_credentials(what: str) -> StoreError:
    """The error for missing credentials."""
    return translate(NoCredentialsError(), what)
