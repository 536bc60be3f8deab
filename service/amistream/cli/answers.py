"""The daemon's answers about jobs as text, for `jobs` and `status`: formatted from its documents, without models.

Whatever goes wrong gives None: the caller then asks by `client`, which repeats lost requests and explains failures.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import quote

from amistream.cli.job_table import job_table
from amistream.cli.one_request import fetch, job_path
from amistream.cli.summary import job_text
from amistream.states import JobKind, State

if TYPE_CHECKING:
    from amistream.events import JobView

_TIMES = ("created_at", "started_at", "ended_at", "looks_again_at")


class Document(dict[str, Any]):
    """A JSON object whose fields are read as those of its model are."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


def list_of_jobs(address: Path, state: str | None, *, as_json: bool) -> str | None:
    """The jobs of the daemon, as `jobs` shows them."""
    query = "" if state is None else f"?state={quote(state, safe='')}"
    return _answered(address, f"/v1/jobs{query}", lambda answer: job_table(answer["jobs"]), as_json=as_json)


def one_job(address: Path, job_id: str, *, as_json: bool) -> str | None:
    """A job of the daemon, as `status` shows it."""
    return _answered(address, job_path(job_id), lambda answer: job_text(view_of(answer)), as_json=as_json)


def view_of(document: Document) -> JobView:
    """The document of a job in the place of its model."""
    times = {name: datetime.fromisoformat(document[name]) for name in _TIMES if document[name] is not None}
    return cast("JobView", Document(document, state=State(document.state), kind=JobKind(document.kind), **times))


def _answered(address: Path, path: str, as_text: Callable[[Document], str], *, as_json: bool) -> str | None:
    answer = fetch(address, path)
    if answer is None:
        return None
    try:
        return answer.decode() if as_json else as_text(json.loads(answer, object_hook=Document))
    except (ValueError, LookupError, TypeError, AttributeError):
        # Another program's answer, or that of another version.
        return None
