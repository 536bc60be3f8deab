"""The command `status`: shows one job."""

from __future__ import annotations

from amistream.cli.answers import one_job
from amistream.cli.daemon_socket import socket_path
from amistream.cli.job_access import Jobs
from amistream.cli.options import ConfigOption, InProcessOption, JobArgument, JsonOption, SocketOption
from amistream.cli.output import put_answer, put_result
from amistream.cli.summary import job_text
from amistream.errors import EXIT_DONE


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
    text = None if in_process else one_job(socket_path(socket, config), job_id, as_json=as_json)
    if text is not None:
        put_result(text)
        return EXIT_DONE
    job = Jobs(socket, config, in_process=in_process).get(job_id)
    return put_answer(job, lambda job: job_text(job, option=" --in-process" * in_process), as_json=as_json)
