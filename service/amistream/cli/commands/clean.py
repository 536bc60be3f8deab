"""The command `clean`: removes the leftovers of unfinished jobs."""

from __future__ import annotations

from typing import Annotated

import typer

from amistream.cli.job_access import Jobs
from amistream.cli.options import ConfigOption, InProcessOption, JsonOption, SocketOption
from amistream.cli.output import put_answer


def clean(
    *,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", "-n", help="Only list the jobs whose leftovers would be removed.")
    ] = False,
    in_process: InProcessOption = False,
    socket: SocketOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> int:
    """Remove the leftovers of unfinished jobs at their destinations: parts, open uploads, manifests, AMIs.

    It removes only objects that the journal proves to be a job's own. A job without its leftovers cannot be resumed.

    Example: [bold]amistream clean --dry-run[/bold]
    """
    from amistream.cli.summary import job_table
    from amistream.events import JobList

    jobs = Jobs(socket, config, in_process=in_process)
    unfinished = [job for job in jobs.list().jobs if job.resumable]
    if not dry_run:
        unfinished = [jobs.cancel(job.id) for job in unfinished]
    return put_answer(JobList(jobs=tuple(unfinished)), lambda found: job_table(found.jobs), as_json=as_json)
