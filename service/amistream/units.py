"""Numbers as text: sizes in KiB, MiB and GiB as in options, rates in the same units per second."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from amistream.sizes import GIB, KIB, MIB

if TYPE_CHECKING:
    from amistream.values import LeftOut

MINUTE_S = 60
HOUR_S = 60 * MINUTE_S


def size_text(size: int) -> str:
    for unit, name in ((GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if size >= unit:
            return f"{size / unit:.1f} {name}"
    return f"{size} B"


def rate_text(bytes_done: float, seconds: float = 1.0) -> str:
    """Bytes over seconds as `212.5 MiB/s`; a dash when no time has passed."""
    return f"{size_text(round(bytes_done / seconds))}/s" if seconds > 0 else "-"


def duration_text(seconds: float) -> str:
    if seconds < MINUTE_S:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < HOUR_S:
        return f"{whole // MINUTE_S}m {whole % MINUTE_S:02d}s"
    return f"{whole // HOUR_S}h {whole % HOUR_S // MINUTE_S:02d}m"


def share_text(part: float, whole: float) -> str:
    """`part` of `whole` in percent; over 100 % where several threads or uploads worked at the same time."""
    return f"{100 * part / whole:.0f} %" if whole > 0 else "-"


def time_text(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def left_out_text(left: LeftOut) -> str:
    """The bytes that are not read, and why, as `6.8 GiB free blocks, 2.0 GiB holes`; '' without any."""
    reasons = {
        "free blocks": left.free,
        "holes": left.holes,
        "preallocated": left.preallocated,
        "unused inode tables": left.unused_inodes,
    }
    return ", ".join(f"{size_text(size)} {reason}" for reason, size in reasons.items() if size)
