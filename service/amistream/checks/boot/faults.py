"""Words for what the boot checks find. Each finding has a stable code, `boot.*`.

`failed`: the AMI will not boot; only what is certain. `noted`: worth knowing. `unknown`: this cannot be told from the
image. Text of an image may come from anybody: `shown` makes it fit for a message.
"""

from __future__ import annotations

from amistream.checks.findings import Observation, Status

_LONGEST = 120


def failed(code: str, found: str, *, why: str, fix: str, cannot: str = "boot") -> Observation:
    return Observation(f"cannot {cannot}: {found}", Status.FAILED, why, fix, code=f"boot.{code}")


def noted(code: str, found: str, *, why: str, fix: str = "") -> Observation:
    return Observation(found, Status.NOTICE, why, fix, code=f"boot.{code}")


def unknown(subject: str, reason: str) -> Observation:
    """`subject` completes "cannot check"."""
    return Observation(f"cannot check {subject}: {reason}", Status.UNKNOWN, code="boot.unknown")


def shown(text: str) -> str:
    """Text of the image, printable and not long."""
    plain = "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text)
    return plain if len(plain) <= _LONGEST else f"{plain[: _LONGEST - 1]}\N{HORIZONTAL ELLIPSIS}"
