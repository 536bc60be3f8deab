"""The command `clean`: removes the leftovers of unfinished jobs."""

from __future__ import annotations

from typing import Annotated

import typer

from amistream.cli.job_access import cancel_job, list_jobs
from amistream.cli.options import (
    ConfigOption,
    InProcessOption,
    JsonOption,
    SocketOption,
)
from amistream.cli.output import put_result
from amistream.errors import EXIT_DONE


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

    found = list_jobs(None, in_process=in_process, socket=socket, config=config)
    unfinished = [job for job in found if job.resumable]
    if not dry_run:
        unfinished = [
            cancel_job(job.id, detach=False, in_process=in_process, socket=socket, config=config) for job in unfinished
        ]
    listed = JobList(jobs=tuple(unfinished))
    put_result(listed.model_dump_json() if as_json else job_table(listed.jobs))
    return EXIT_DONE
