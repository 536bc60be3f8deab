"""Text about the plan of a job that was not begun, for `--dry-run`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from amistream.cli.table import columns, counted
from amistream.units import duration_text, rate_text, share_text, size_text

if TYPE_CHECKING:
    from amistream.jobs.forecast import Forecast

_CENT = 0.01


def forecast_text(plan: Forecast, piece: str) -> str:
    """Format a plan; `piece` is the word for what is stored: part, or block."""
    share = share_text(plan.sent_size, plan.image_size)
    requests = f", {counted(plan.requests, 'request')}" if plan.requests else ""
    if len(plan.places) > 1:
        requests += f", to {len(plan.places)} destinations"
    facts = [
        ("read", f"{size_text(plan.read_size)} of {size_text(plan.image_size)}"),
        ("send", f"{_nearly(plan)} {size_text(plan.sent_size)} ({share}) in {counted(plan.pieces, piece)}{requests}"),
        ("time", _time_text(plan)),
        *([("memory", f"at most {size_text(plan.memory)}")] if plan.memory else []),
        ("cost", _cost_text(plan)),
    ]
    measured = [f"{size_text(plan.sample_size)} read"] if plan.sample_size else []
    if plan.probe_size:
        measured.append(f"{size_text(plan.probe_size)} put and deleted")
    if measured:
        facts.append(("measured", ", ".join(measured)))
    links = [
        ("link", f"{each.destination}: {f'about {rate_text(each.link_rate)}' if each.link_rate else 'not measured'}")
        for each in plan.places
        if len(plan.places) > 1
    ]
    return columns([*facts, *links, *(("note", note) for note in plan.notes)])


def _nearly(plan: Forecast) -> str:
    return "at most" if plan.is_most else "about"


def _time_text(plan: Forecast) -> str:
    if plan.is_least:
        alone = f"; {plan.limited_by} alone takes {duration_text(plan.seconds)}" if plan.limited_by else ""
        return f"not known{alone}"
    if not plan.limited_by:
        return "moments: there is no data to read"
    rate = rate_text(plan.image_size, plan.seconds)
    return f"about {duration_text(plan.seconds)}, {rate}; limited by {plan.limited_by}"


def _cost_text(plan: Forecast) -> str:
    if plan.cost is None or plan.cost_of_requests is None:
        return "none: it is stored in a directory"
    price = f"{plan.stored_in}, at {plan.price} USD per GiB"
    if plan.price is None:
        price = ", ".join(f"{each.stored_in} at {each.price} USD per GiB" for each in plan.places)
    nearly = _nearly(plan)
    return f"{_usd_text(plan.cost, nearly)} a month ({price}), and {_usd_text(plan.cost_of_requests, nearly)} once"


def _usd_text(usd: float, nearly: str) -> str:
    return f"{nearly} {usd:.2f} USD" if usd >= _CENT else "less than 0.01 USD"
