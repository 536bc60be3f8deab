"""The command `cancel`: ends a job and removes what it stored."""

from __future__ import annotations

from amistream.cli.job_access import Jobs
from amistream.cli.options import ConfigOption, DetachOption, InProcessOption, JobArgument, JsonOption, SocketOption


def cancel(
    job_id: JobArgument,
    *,
    detach: DetachOption = False,
    in_process: InProcessOption = False,
    socket: SocketOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> int:
    """Cancel a job, also an unfinished one, and wait until its stored parts are removed.

    Example: [bold]amistream cancel 20250131-120000-5f3a9c[/bold]
    """
    from amistream.cli.follow import put_begun

    job, _ = Jobs(socket, config, in_process=in_process, detach=detach).cancel(job_id)
    return put_begun(job, as_json=as_json)
