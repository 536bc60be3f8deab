"""The command `resume`: continues an unfinished job."""

from __future__ import annotations

from typing import TYPE_CHECKING

from amistream.cli.job_access import check_detach
from amistream.cli.options import (
    ConfigOption,
    DetachOption,
    InProcessOption,
    JobArgument,
    JsonOption,
    SocketOption,
    socket_path,
)
from amistream.errors import EXIT_INTERRUPTED

if TYPE_CHECKING:
    from amistream.cli.client import Client
    from amistream.jobs.job import Job
    from amistream.jobs.queue import JobQueue


def resume(
    job_id: JobArgument,
    *,
    detach: DetachOption = False,
    in_process: InProcessOption = False,
    socket: SocketOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> int:
    """Continue an interrupted or failed job where it stopped, and follow it.

    Stored parts are verified, not sent again; if the volume has changed, the job starts over.

    Example: [bold]amistream resume 20250131-120000-5f3a9c[/bold]
    """
    from amistream.cli.follow import follow_in_daemon, put_begun, put_end

    if check_detach(detach=detach, in_process=in_process) or not in_process:

        async def begin(client: Client) -> str:
            await client.resume(job_id)
            return job_id

        job = follow_in_daemon(socket_path(socket, config), begin, detach=detach)
        return put_begun(job, as_json=as_json) if detach else put_end(job, as_json=as_json)

    from amistream.cli.in_process import follow_in_process

    async def begin_here(queue: JobQueue) -> Job:
        return await queue.resume(job_id)

    job, interrupted = follow_in_process(begin_here, config)
    exit_status = put_end(job, as_json=as_json)
    return EXIT_INTERRUPTED if interrupted else exit_status
