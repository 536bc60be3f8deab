"""The command `status`: shows one job."""

from __future__ import annotations

from typing import TYPE_CHECKING

from amistream.cli.job_access import ask_daemon
from amistream.cli.options import (
    ConfigOption,
    InProcessOption,
    JobArgument,
    JsonOption,
    SocketOption,
    socket_path,
)
from amistream.cli.output import put_result
from amistream.errors import EXIT_DONE
from amistream.events import JobView

if TYPE_CHECKING:
    from amistream.jobs.queue import JobQueue


def status(
    job_id: JobArgument,
    *,
    in_process: InProcessOption = False,
    socket: SocketOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> int:
    """Show one job: its state, its progress, and its result or error.

    Example: [bold]amistream status 20250131-120000-5f3a9c --json[/bold]
    """
    from amistream.cli.summary import job_text

    if in_process:
        from amistream.cli.in_process import ask_in_process

        async def find(queue: JobQueue) -> JobView:
            return queue.get(job_id).view()

        job = ask_in_process(find, config)
    else:
        job = ask_daemon(socket_path(socket, config), lambda client: client.get(job_id))
    put_result(job.model_dump_json() if as_json else job_text(job, option=" --in-process" * in_process))
    return EXIT_DONE
