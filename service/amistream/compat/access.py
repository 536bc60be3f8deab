"""Translates options of an old command: access keys, endpoint and region, the bucket's address.

Keys from the command line go to the SDK only: into no environment, file or log.
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
"""Former names of S3's first two regions."""


def access_keys(given: Given, *, access: str, secret: str, token: str) -> AccessKeys | None:
    """Take the keys from the command line; None: the SDK finds its own."""
    if given.has(access) != given.has(secret):
        raise UsageError(
            "usage",
            f"cannot use one of --{access} and --{secret} without the other",
            hint="omit both to use an instance role, ~/.aws/credentials or the AWS_* variables",
        )
    if not given.has(access):
        return None
    session_token = given[token] or os.environ.get("AWS_DELEGATION_TOKEN") or None
    return AccessKeys(access_key=given[access], secret_key=given[secret], token=session_token)


def euca2ools_keys(given: Given) -> AccessKeys | None:
    """Take the keys from the command line, or from the variables that an eucarc or ec2rc sets.

    The SDK's own variables come before those, its files after them.
    """
    keys = access_keys(given, access="access-key-id", secret="secret-key", token="security-token")  # noqa: S106
    if keys is not None or os.environ.get("AWS_ACCESS_KEY_ID") or os.environ.get("AWS_PROFILE"):
        return keys
    for names in (("EC2_ACCESS_KEY", "EC2_SECRET_KEY"), ("AWS_ACCESS_KEY", "AWS_SECRET_KEY")):
        access, secret = map(os.environ.get, names)
        if access and secret:
            return AccessKeys(access_key=access, secret_key=secret)
    return None


def ami_tools_keys(given: Given) -> AccessKeys | None:
    return access_keys(given, access="access-key", secret="secret-key", token="delegation-token")  # noqa: S106


def endpoint(url: str) -> tuple[str, str]:
    """Give the endpoint of `url`, whose path some clouds need, '' for one of AWS, and its region, if any."""
    parts = urlsplit(url if "://" in url or not url else f"https://{url}")
    found = _AWS_HOST.fullmatch(parts.hostname or "")
    if found or not url:
        return "", (found and found["region"]) or ""
    if parts.query or parts.fragment or not parts.hostname:
        raise UsageError(
            "usage",
            f"cannot use the endpoint {parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}",
            hint="give http://HOST:PORT, https://HOST, or one of these with a path",
        )
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}", ""


def region_of(text: str) -> str:
    """Give the region of --region or --location; of euca2ools' USER@REGION the latter."""
    name = text.rpartition("@")[2]
    return _OLD_LOCATIONS.get(name, name)


def settings_of(given: Given, *, url: str = "", region: str = "") -> Settings:
    """Load the settings, with the options of the command."""
    endpoint_url, named = endpoint(url)
    return load(None, endpoint_url=endpoint_url or None, region=region or named or None, acl=given["acl"] or None)


def bucket_address(text: str) -> str:
    """Make an address of BUCKET[/PREFIX]."""
    return str(parse_s3_location(text))
