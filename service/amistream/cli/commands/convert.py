"""The command `convert`: makes an EBS snapshot, and an AMI of it, of a bundle or a volume, and follows the job.

Its options are the fields of `request.ConvertCheckRequest`: add one there.
"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from amistream.cli.job_access import Jobs
from amistream.cli.options import ConfigOption, DetachOption, JsonOption, SocketOption
from amistream.cli.output import put_note
from amistream.cli.request_options import fields_of, in_option_words, make_request, takes
from amistream.errors import UsageError
from amistream.events import JobKind
from amistream.request import ConvertCheckRequest, ConvertRequest
from amistream.values import STANDARD_INPUT

InProcess = Annotated[
    bool, typer.Option("--in-process", help="Run the job in this process, without a daemon; Ctrl-C cancels it.")
]
Checks = Annotated[
    bool,
    typer.Option("--dry-run", "-n", help="Only run all of the job's checks, and report every problem with its fix."),
]


@takes(*fields_of(ConvertCheckRequest), model=ConvertRequest)
def convert(
    context: typer.Context,
    *,
    dry_run: Checks = False,
    in_process: InProcess = False,
    detach: DetachOption = False,
    socket: SocketOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
    **given: Any,
) -> int:
    """Make an EBS snapshot and an EBS-backed AMI of SOURCE, and follow the job to its end.

    SOURCE is the manifest of a bundle, or whatever `bundle` takes. A bundle is read, opened with your private key,
    proved and written in one pass: no instance, no volume, no disk space. Its architecture, devices, kernel and, from
    the AMI registered from it, its networks are taken over. Options that are not given come from the daemon's settings,
    or from your own with --in-process.

    Ctrl-C leaves the daemon's job running; with --in-process it cancels the job, and deletes the snapshot.

    Example: [bold]amistream convert s3://my-bucket/web-1/image.manifest.xml --ami-name web-1-ebs --ena[/bold]

    Example: [bold]amistream convert /dev/xvdf --ami-name web-2 --ena --volume-size 20GiB[/bold]

    Example: [bold]amistream convert data.qcow2 --no-register --encrypted[/bold]

    Example: [bold]amistream convert s3://my-bucket/web-1/image.manifest.xml --dry-run[/bold]
    """
    if given["source"] == STANDARD_INPUT and not in_process:
        raise UsageError(
            "usage",
            "cannot convert standard input in the daemon: it has one of its own",
            hint="give --in-process: then the job runs in this process",
            field="source",
        )
    given["kind"] = JobKind.CONVERT
    try:
        if dry_run:
            from amistream.cli.commands.doctor import put_findings
            from amistream.settings import load

            settings = load(config)
            checked = make_request(ConvertCheckRequest, given)
            return put_findings(checked, settings, None if in_process else socket or settings.socket, as_json=as_json)
        jobs = Jobs(socket, config, in_process=in_process, detach=detach)
        request = make_request(ConvertRequest, given)
        origin = context.get_parameter_source("config")
        if not in_process and origin is not None and origin.name == "COMMANDLINE":
            put_note("note: the job has the daemon's settings; of --config only the socket counts without --in-process")
        return jobs.submit(request, as_json=as_json)
    except UsageError as error:
        raise in_option_words(error, context) from error
