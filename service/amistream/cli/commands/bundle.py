"""The command `bundle`: submits a job, or runs it in this process, and follows it to its end.

Its options are the fields of `request.CheckRequest`: add one there.
"""

from __future__ import annotations

from typing import Any

import typer

from amistream.cli.dry_run import DryRunOption
from amistream.cli.dry_run import dry_run as show_plan
from amistream.cli.job_access import Jobs
from amistream.cli.options import ConfigOption, DetachOption, JsonOption, SocketOption
from amistream.cli.request_options import fields_of, takes, validated
from amistream.cli.showing import NoProgressOption, QuietOption, VerboseOption, showing
from amistream.cli.submitting import RunHere, runs_here, submit_job
from amistream.request import BundleRequest, CheckRequest


@takes(*fields_of(CheckRequest))
def bundle(
    context: typer.Context,
    *,
    dry_run: DryRunOption = False,
    in_process: RunHere = False,
    detach: DetachOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
    no_progress: NoProgressOption = False,
    socket: SocketOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
    **given: Any,
) -> int:
    """Bundle SOURCE into an instance store-backed (S3-backed) AMI and follow the job to its end.

    Options that are not given come from the daemon's settings, or from your own with --in-process.

    Ctrl-C leaves the daemon's job running; with --in-process it cancels the job.

    Example: [bold]amistream bundle /dev/xvda --to s3://my-bucket/web --ami-name web-1[/bold]

    Example: [bold]amistream bundle disk.img --to s3://bucket-in-eu/web --to s3://bucket-in-us/web[/bold]

    Example: [bold]amistream bundle disk.img --to ./bundle --cert cert.pem --private-key pk.pem[/bold]

    Example: [bold]amistream bundle /dev/xvda --to s3://my-bucket/web --dry-run[/bold]

    Example: [bold]zcat disk.img.gz | amistream bundle - --image-size 10GiB --to s3://my-bucket/web[/bold]
    """
    in_process = runs_here(given, in_process=in_process)
    shown = showing(quiet=quiet, verbose=verbose, no_progress=no_progress, as_json=as_json)
    if dry_run:
        from amistream.settings import load

        settings = load(config)
        place = None if in_process else socket or settings.socket
        request = validated(BundleRequest, context)
        return show_plan(request, settings, place, as_json=as_json, verbose=verbose)
    jobs = Jobs(socket, config, in_process=in_process, detach=detach, shown=shown)
    return submit_job(context, BundleRequest, given, jobs, in_process=in_process)
