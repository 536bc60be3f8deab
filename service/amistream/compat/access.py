"""Where an old command's words lead: the access keys, the endpoint and region, the bucket's address.

Keys from the command line go to the SDK as they are: into no environment, file or log.
"""

from __future__ import annotations

import os
import re
from urllib.parse import urlsplit

from amistream.compat.options import Given
from amistream.errors import UsageError
from amistream.location import parse_s3_location
from amistream.settings import Settings, load
from amistream.values import AccessKeys

_AWS_HOST = re.compile(r"(?:s3[.-](?:dualstack\.)?)(?P<region>[a-z]{2,3}(?:-[a-z]+)+-[0-9])?\.?amazonaws\.com(?:\.cn)?")
_OLD_LOCATIONS = {"EU": "eu-west-1", "US": "us-east-1"}
"""The names that S3 once had for its first two regions."""


def access_keys(given: Given, *, access: str, secret: str, token: str) -> AccessKeys | None:
    """The keys of the command line; None: the SDK looks for some itself."""
    if given.has(access) != given.has(secret):
        raise UsageError(
            "usage",
            f"cannot use one of --{access} and --{secret} without the other",
            hint="leave both out to use an instance role, ~/.aws/credentials or the AWS_* variables",
        )
    if not given.has(access):
        return None
    session_token = given[token] or os.environ.get("AWS_DELEGATION_TOKEN") or None
    return AccessKeys(access_key=given[access], secret_key=given[secret], token=session_token)


def ami_tools_keys(given: Given) -> AccessKeys | None:
    return access_keys(given, access="access-key", secret="secret-key", token="delegation-token")  # noqa: S106


def endpoint(url: str) -> tuple[str, str]:
    """The endpoint that `url` stands for, '' for one of AWS's own, and the region it names or ''."""
    parts = urlsplit(url if "://" in url or not url else f"https://{url}")
    found = _AWS_HOST.fullmatch(parts.hostname or "")
    if found or not url:
        return "", (found and found["region"]) or ""
    if parts.path.strip("/") or parts.query:
        raise UsageError(
            "usage",
            f"cannot use the endpoint {parts.scheme}://{parts.netloc}: a path follows",
            hint="give http://HOST:PORT or https://HOST alone",
        )
    return f"{parts.scheme}://{parts.netloc}", ""


def region_of(text: str) -> str:
    """The region that --region or --location names; of euca2ools' USER@REGION the latter."""
    name = text.rpartition("@")[2]
    return _OLD_LOCATIONS.get(name, name)


def settings_of(given: Given, *, url: str = "", region: str = "") -> Settings:
    """The settings, with what the command says instead."""
    endpoint_url, named = endpoint(url)
    return load(None, endpoint_url=endpoint_url or None, region=region or named or None, acl=given["acl"] or None)


def bucket_address(text: str) -> str:
    """BUCKET[/PREFIX] as an address."""
    return str(parse_s3_location(text))
