"""Describes the things that may still appear outside after a removal: their requests were never answered."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from amistream.errors import LateError
from amistream.ports.unanswered import Late, latest
from amistream.units import time_text


def refuse_late(late: Mapping[int, Late], describe: Callable[[int, str], str]) -> None:
    """Raise `LateError` if anything may still appear; `describe` names a thing at the destination of that number."""
    names = [describe(number, name) for number, each in late.items() for name in each]
    if names:
        more = f" (and {len(names) - 1} more)" if names[1:] else ""
        raise LateError(
            "removal.late",
            f"cannot be sure that all is removed: until {time_text(latest(late))} {names[0]} may still appear, because "
            f"the request for it was never answered{more}",
        )
