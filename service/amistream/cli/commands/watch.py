"""The command `watch`: follows a job of the daemon to its end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from amistream.cli.daemon_socket import socket_path
from amistream.cli.options import (
    ConfigOption,
    JobArgument,
    JsonOption,
    SocketOption,
)
from amistream.cli.showing import NoProgressOption, QuietOption, VerboseOption, showing

if TYPE_CHECKING:
    from amistream.cli.client import Client


def watch(
    job_id: JobArgument,
    *,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
    no_progress: NoProgressOption = False,
    socket: SocketOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> int:
    """Follow a job to its end; the exit status is the job's. Ctrl-C leaves the job running.

    Example: [bold]amistream watch 20250131-120000-5f3a9c[/bold]
    """
    from amistream.cli.follow import follow_in_daemon, put_end

    async def begin(client: Client) -> str:
        return await client.full_id(job_id)

    shown = showing(quiet=quiet, verbose=verbose, no_progress=no_progress, as_json=as_json)
    return put_end(follow_in_daemon(socket_path(socket, config), begin, shown), shown)
