"""Words for what the boot checks find. Each finding has a stable code, `boot.*`.

`failed`: the AMI will not boot; only what is certain. `noted`: worth knowing. `unknown`: this cannot be told from the
image. Text of an image may come from anybody: what does not print is replaced in all findings, and `shown` cuts it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from amistream.checks.findings import Observation, Status
from amistream.source.disks.reading import DoubtError

IDENTITY = "identity"
"""First word of the codes of what belongs to one machine or person."""
_LONGEST = 120


def failed(code: str, found: str, *, why: str, fix: str, cannot: str = "boot") -> Observation:
    return _finding(code, f"cannot {cannot}: {found}", Status.FAILED, why, fix)


def noted(code: str, found: str, *, why: str, fix: str = "") -> Observation:
    return _finding(code, found, Status.NOTICE, why, fix)


def unknown(subject: str, reason: str) -> Observation:
    """`subject` completes "cannot check"."""
    return _finding("unknown", f"cannot check {subject}: {reason}", Status.UNKNOWN)


def guarded(subject: str, check: Callable[[], Iterable[Observation]]) -> list[Observation]:
    """The findings of a check, up to a doubt, which is one of them: it hides no findings of other checks."""
    found: list[Observation] = []
    try:
        found.extend(check())
    except DoubtError as doubt:
        found.append(unknown(subject, str(doubt)))
    return found


def shown(text: str) -> str:
    """Text of the image, not long."""
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}\N{HORIZONTAL ELLIPSIS}"


def _finding(code: str, found: str, status: Status, why: str = "", fix: str = "") -> Observation:
    return Observation(_printable(found), status, why, _printable(fix), code=f"boot.{code}")


def _printable(text: str) -> str:
    return "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text)
