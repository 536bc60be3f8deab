"""The command `bundle`: submits a job, or runs it in this process, and follows it to its end.

Its options are the fields of `request.CheckRequest`: add one there.
"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from amistream.cli.job_access import Jobs
from amistream.cli.options import ConfigOption, DetachOption, JsonOption, SocketOption
from amistream.cli.output import put_note
from amistream.cli.request_options import fields_of, in_option_words, make_request, takes
from amistream.errors import UsageError
from amistream.request import BundleRequest, CheckRequest
from amistream.values import STANDARD_INPUT

InProcess = Annotated[
    bool, typer.Option("--in-process", help="Run the job in this process, without a daemon; Ctrl-C cancels it.")
]


@takes(*fields_of(CheckRequest))
def bundle(
    context: typer.Context,
    *,
    in_process: InProcess = False,
    detach: DetachOption = False,
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

    Example: [bold]zcat disk.img.gz | amistream bundle - --image-size 10GiB --to s3://my-bucket/web --in-process[/bold]
    """
    if given["source"] == STANDARD_INPUT and not in_process:
        raise UsageError(
            "usage",
            "cannot bundle standard input in the daemon: it has one of its own",
            hint="give --in-process: then the job runs in this process",
            field="source",
        )
    jobs = Jobs(socket, config, in_process=in_process, detach=detach)
    try:
        request = make_request(BundleRequest, given)
        origin = context.get_parameter_source("config")
        if not in_process and origin is not None and origin.name == "COMMANDLINE":
            put_note("note: the job has the daemon's settings; of --config only the socket counts without --in-process")
        return jobs.submit(request, as_json=as_json)
    except UsageError as error:
        raise in_option_words(error, context) from error
