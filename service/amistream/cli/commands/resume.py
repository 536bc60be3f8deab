"""The command `resume`: continues an unfinished job."""

from __future__ import annotations

from dataclasses import replace

from amistream.cli.job_access import Jobs
from amistream.cli.options import ConfigOption, DetachOption, InProcessOption, JobArgument, JsonOption, SocketOption
from amistream.cli.showing import NoProgressOption, QuietOption, VerboseOption, showing


def resume(
    job_id: JobArgument,
    *,
    detach: DetachOption = False,
    in_process: InProcessOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
    no_progress: NoProgressOption = False,
    socket: SocketOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> int:
    """Continue an interrupted or failed job where it stopped, and follow it.

    Stored parts are verified, not sent again; if the volume has changed, the job starts over.

    Example: [bold]amistream resume 20250131-120000-5f3a9c[/bold]
    """
    shown = showing(quiet=quiet, verbose=verbose, no_progress=no_progress, as_json=as_json)
    shown = replace(shown, earlier_notes=False)
    return Jobs(socket, config, in_process=in_process, detach=detach, shown=shown).resume(job_id)
