"""List prices of S3 standard storage, for estimates only; update them when Amazon changes them."""

from __future__ import annotations

from types import MappingProxyType

from amistream.values import GIB

AS_OF = "2025-01"

USD_PER_GIB_MONTH = MappingProxyType(
    {
        **dict.fromkeys(("us-east-1", "us-east-2", "us-west-2", "eu-west-1", "eu-north-1"), 0.023),
        **dict.fromkeys(("eu-west-2", "eu-west-3", "eu-south-1"), 0.024),
        "eu-central-1": 0.0245,
        **dict.fromkeys(("ca-central-1", "me-south-1", "il-central-1"), 0.025),
        **dict.fromkeys(("ap-east-1", "ap-south-1", "ap-southeast-1", "ap-southeast-2"), 0.025),
        **dict.fromkeys(("ap-northeast-1", "ap-northeast-2", "ap-northeast-3"), 0.025),
        "us-west-1": 0.026,
        "af-south-1": 0.0274,
        **dict.fromkeys(("us-gov-west-1", "us-gov-east-1"), 0.039),
        "sa-east-1": 0.0405,
    }
)
"""For the first 50 TB of a month; S3's "GB" is a GiB. Other regions have no estimate."""


def monthly_cost(size: int, price: float | None) -> float | None:
    """Compute the monthly cost of `size` bytes at a price per GiB."""
    return None if price is None else round(size / GIB * price, 6)
