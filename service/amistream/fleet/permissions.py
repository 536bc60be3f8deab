"""The limits of what a message may ask for: less than a member of the socket's group may.

A message comes from whoever may write to the queue. The administrator of this host lists what messages may read, where
they may write, and which kinds of jobs they may start; an empty list allows nothing. Within that the limits of members
apply (`jobs.confinement`), and paths are opened within `source_roots`, whatever is listed here.
"""

from __future__ import annotations

from collections.abc import Sequence

from amistream.errors import AccessDeniedError
from amistream.jobs.confinement import check_request
from amistream.request import JobRequest
from amistream.settings import Settings
from amistream.values import STANDARD_INPUT, is_snapshot

SNAPSHOTS = "snap-"
"""The entry of `queue_sources` that allows every snapshot."""


def check_message_request(request: JobRequest, settings: Settings) -> None:
    """Raise `AccessDeniedError` for a request that no message may make."""
    if request.kind not in settings.queue_kinds:
        raise AccessDeniedError(
            "access.queue_kind",
            f"cannot take the job: messages may not start jobs of the kind {request.kind.value} here",
            hint=f"send it to a queue whose hosts take them; queue_kinds has {_listed(settings.queue_kinds)}",
            field="kind",
        )
    if request.source == STANDARD_INPUT:
        raise AccessDeniedError(
            "source.stream",
            "cannot read standard input: a message has none",
            hint="name a file, a device, a directory, a snapshot or a bundle",
            field="source",
        )
    source = request.source or ""
    if not is_listed(source, settings.queue_sources):
        raise AccessDeniedError(
            "access.queue_sources",
            f"cannot read {source} for a message: queue_sources does not list it",
            hint=f"the administrator of the host adds it to queue_sources, which has {_listed(settings.queue_sources)}",
            field="source",
        )
    for destination in request.destinations:
        if not is_listed(destination, settings.queue_destinations):
            listed = _listed(settings.queue_destinations)
            raise AccessDeniedError(
                "access.queue_destinations",
                f"cannot write to {destination} for a message: queue_destinations does not list it",
                hint=f"the administrator of the host adds it to queue_destinations, which has {listed}",
                field="destinations",
            )
    check_request(request, settings, needs_roots=False)


def is_listed(address: str, entries: Sequence[str]) -> bool:
    """True if the address is one of the entries, or lies below one, step by step."""
    if is_snapshot(address):
        return SNAPSHOTS in entries or address in entries
    return any(_is_below(address, entry) for entry in entries if entry != SNAPSHOTS)


def _is_below(address: str, entry: str) -> bool:
    if not address or ".." in address.split("/"):
        return False
    folder = entry if entry.endswith("/") else f"{entry}/"
    return address == entry or address.startswith(folder) or f"{address}/" == folder


def _listed(entries: Sequence[str]) -> str:
    return ", ".join(entries) or "nothing"
