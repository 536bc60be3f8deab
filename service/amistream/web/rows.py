"""Makes the rows of the list of jobs from the documents of the socket API.

Of a job in progress the page shows everything; of an ended one only what its row and its heading need, because hundreds
of them are sent at once. The whole document comes when a row is opened.
"""

from __future__ import annotations

from typing import Any, TypeAlias

Row: TypeAlias = dict[str, Any]

_LEFT_OUT = ("progress", "result", "notices")
_OF_RESULT = ("image_id", "image_name", "snapshot_id", "manifest", "region", "image_size", "bundled_size")


def is_active(job: Row) -> bool:
    return job.get("ended_at") is None


def row_of(job: Row) -> Row:
    """The part of the document of a job that the list shows."""
    if is_active(job):
        return job
    result = job.get("result") or {}
    registered = result.get("image") or {}
    shown = {name: found for name in _OF_RESULT if (found := result.get(name) or registered.get(name))}
    return {**{name: value for name, value in job.items() if name not in _LEFT_OUT}, "result": shown}
