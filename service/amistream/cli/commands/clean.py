"""The command `clean`: removes the leftovers of unfinished jobs."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from typing import Annotated

import typer

from amistream.cli.job_access import Jobs
from amistream.cli.job_table import job_table
from amistream.cli.options import ConfigOption, InProcessOption, JsonOption, OlderThan, SocketOption, Yes, parse_age
from amistream.cli.output import put_answer, put_error, put_note
from amistream.cli.question import confirm
from amistream.cli.table import counted
from amistream.cli.terminal import width_of
from amistream.errors import EXIT_INTERRUPTED, AmistreamError, ConflictError
from amistream.events import JobList, JobView
from amistream.states import ids_like

JobIds = Annotated[
    list[str] | None, typer.Argument(metavar="[ID]...", help="Only these jobs; default: every unfinished job.")
]


def clean(
    *,
    job_ids: JobIds = None,
    older_than: OlderThan = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", "-n", help="Only list the jobs whose leftovers would be removed.")
    ] = False,
    yes: Yes = False,
    in_process: InProcessOption = False,
    socket: SocketOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> int:
    """Remove the leftovers of unfinished jobs: parts, open uploads, manifests, snapshots, AMIs.

    It lists the jobs, those of other users too, and asks first. It removes only objects that the journal proves to be a
    job's own. A job without its leftovers cannot be resumed. The age of a job counts from its end.

    Example: [bold]amistream clean --dry-run[/bold]

    Example: [bold]amistream clean --older-than 7d --yes[/bold]
    """
    jobs = Jobs(socket, config, in_process=in_process)
    before = None if older_than is None else datetime.now(UTC) - parse_age(older_than)
    found = _chosen(jobs.list().jobs, job_ids or (), before)
    exit_status = 0
    if found and not dry_run:
        if not yes:
            put_note(_table(found))
        question = f"Remove all that {counted(len(found), 'unfinished job')} stored?"
        asyncio.run(confirm(question, yes=yes, what="remove what unfinished jobs stored"))
        cleaned = []
        for job in found:
            try:
                cancelled, interrupted = jobs.cancel(job.id)
            except AmistreamError as error:
                put_error(error)
                exit_status, interrupted = exit_status or error.exit_status, error.exit_status == EXIT_INTERRUPTED
            else:
                cleaned.append(cancelled)
            if interrupted:
                exit_status = EXIT_INTERRUPTED
                break
        found = cleaned
    return put_answer(JobList(jobs=tuple(found)), lambda listed: _table(listed.jobs), as_json=as_json) or exit_status


def _table(jobs: Sequence[JobView]) -> str:
    return job_table([job.model_dump(mode="json") for job in jobs], width=width_of(sys.stdout) or None)


def _chosen(jobs: Sequence[JobView], ids: Sequence[str], before: datetime | None) -> list[JobView]:
    """The unfinished jobs with these ids, if any are given, that ended before that time. Raises `ConflictError`."""
    unfinished = {job.id: job for job in jobs if job.resumable}
    named = [_only(word, unfinished) for word in ids]
    chosen = [unfinished[job_id] for job_id in dict.fromkeys(named)] or list(unfinished.values())
    return [job for job in chosen if before is None or (job.ended_at or job.created_at) < before]


def _only(word: str, ids: Collection[str]) -> str:
    """The id of the unfinished job that `word` stands for."""
    found = ids_like(word, ids)
    if len(found) == 1:
        return found[0]
    why = f"{len(found)} have such an id" if found else "nothing of it is kept, or there is no such job"
    raise ConflictError(
        "job.ambiguous" if found else "job.not_unfinished",
        f"cannot clean job {word or repr('')}: {why}",
        hint="`amistream clean --dry-run` lists the jobs with leftovers",
        field="id",
    )
