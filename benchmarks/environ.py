"""Environments of the programs that are measured: none of the user's credentials and settings are in them."""

from __future__ import annotations

import os

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "benchmark",
    "AWS_SECRET_ACCESS_KEY": "benchmark",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
}
"""Of the endpoints here, which accept any."""


def plain_environ() -> dict[str, str]:
    """The environment without variables of AWS, of EC2's tools and of our own."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "EC2_", "AMISTREAM_"))}
