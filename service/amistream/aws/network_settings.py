"""Checks how the environment says that AWS is reached: a bundle of CA certificates, and proxies.

The SDK takes whatever stands there, and reports each as an endpoint that cannot be reached.
"""

from __future__ import annotations

import os
import re
import ssl
from pathlib import Path
from urllib.parse import urlsplit

from amistream.errors import RefusedError


def check_ca_bundle(path: str, origin: str) -> None:
    """Refuse a bundle that the SDK could not load. Blocks on the file."""
    try:
        if not path.strip():
            raise _refusal(origin, "(none)", "it is empty")
        if Path(path).is_dir():
            raise _refusal(origin, path, "it is a directory")
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except ssl.SSLError:
        raise _refusal(origin, path, "it has no certificate") from None
    except OSError as error:
        raise _refusal(origin, path, error.strerror or "it cannot be read") from None


def check_proxy(url: str) -> None:
    """Refuse a proxy for requests to `url` whose address cannot be one. Its password stays out of the message."""
    from botocore.utils import get_environ_proxies

    scheme = urlsplit(url).scheme
    value = get_environ_proxies(url).get(scheme)
    if not value:
        return
    why = _fault_of_proxy(value)
    if why:
        name = next((each for each in (f"{scheme}_proxy", f"{scheme}_proxy".upper()) if each in os.environ), scheme)
        raise RefusedError(
            "aws.proxy",
            f"cannot use the proxy in {name}: {why}",
            hint="write it as http://HOST:PORT, or unset it; NO_PROXY names hosts that are reached without",
        )


def _fault_of_proxy(value: str) -> str:
    if re.search(r"[^\x21-\x7e]", value):
        return "it has blanks or other characters that no URL has"
    # As the SDK completes it.
    complete = value if re.match("https?:", value) else "http://" + value.removeprefix("//")
    if other := re.match(r"http://([\w+.-]+)://", complete):
        return f"the SDK has no proxies of the kind {other[1]}"
    try:
        parts = urlsplit(complete)
        return "" if parts.hostname and parts.port != 0 else "it names no host"
    except ValueError:
        return "its port is not a number, or its host has no valid address"


def _refusal(origin: str, path: str, why: str) -> RefusedError:
    return RefusedError(
        "aws.ca_bundle",
        f"cannot use the CA certificates {path}, which {origin} names: {why}",
        hint="name a file of certificates in PEM form, or unset it for those that the SDK brings",
    )
