"""The daemon's answers about jobs as text, for `jobs` and `status`: formatted from its documents, without models.

Whatever goes wrong gives None: the caller then asks by `client`, which repeats lost requests and explains failures.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from amistream.cli.job_table import SHOWN, job_table, listing_path
from amistream.cli.one_request import fetch, job_path
from amistream.cli.output import put_note
from amistream.cli.summary import job_text
from amistream.cli.terminal import width_of
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


class Listing(NamedTuple):
    """A list of jobs as it was asked for: a word of --state, a label, and at most so many, the newest."""

    state: str | None = None
    label: str | None = None
    limit: int | None = SHOWN

    def most(self, *, as_json: bool) -> int | None:
        """The jobs to ask for: in a table one more, which shows that there are others."""
        return None if self.limit is None else self.limit + (not as_json)


def list_of_jobs(address: Path, asked: Listing, *, as_json: bool) -> str | None:
    """The jobs of the daemon, as `jobs` shows them."""
    path = listing_path(asked.state, asked.label, asked.most(as_json=as_json))
    return _answered(address, path, lambda answer: listed(answer, asked), as_json=as_json)


def listed(answer: Mapping[str, Any], asked: Listing) -> str:
    """The table of the jobs of an answer. A note says that there are more, below the table or aside of its reader."""
    jobs, width = answer["jobs"], width_of(sys.stdout) or None
    if asked.limit is None or len(jobs) <= asked.limit:
        return job_table(jobs, width=width)
    table = job_table(jobs[-asked.limit :], width=width)
    note = f"only the newest {asked.limit} are shown; --all shows every job, --limit N the newest N"
    if width is not None:
        return f"{table}\n{note}"
    put_note(note)
    return table


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
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        # Another program's answer, or that of another version.
        return None
