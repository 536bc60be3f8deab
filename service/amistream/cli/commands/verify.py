"""The command `verify`: compares a bundle with its manifest, in this process or, with --detach, as a daemon's job."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from amistream.cli.job_access import Jobs
from amistream.cli.manifest_arguments import Manifest, path_of, settings_for
from amistream.cli.options import ConfigOption, JsonOption, SocketOption
from amistream.cli.output import put_answer
from amistream.cli.report_text import report_text
from amistream.cli.request_options import takes, validated
from amistream.cli.showing import NoProgressOption, QuietOption, showing
from amistream.cli.submitting import refuse_label
from amistream.errors import DifferenceError
from amistream.events import JobKind
from amistream.request import Identity, StoreReach
from amistream.request.verify import VerifyRequest

Deep = Annotated[bool, typer.Option("--deep", help="Read, decrypt and unpack every part; needs the private key.")]
Detach = Annotated[
    bool, typer.Option("--detach", "--no-wait", help="Have the daemon do it, and print the id of its job only.")
]


@takes("certificate", "private_key", "region", "endpoint_url", "label")
def verify(
    context: typer.Context,
    manifest: Manifest,
    *,
    deep: Deep = False,
    detach: Detach = False,
    quiet: QuietOption = False,
    no_progress: NoProgressOption = False,
    socket: SocketOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
    **given: Any,
) -> int:
    """Compare a bundle with its manifest, and list all differences.

    Without --deep it checks each part's size, checksum and ACL and downloads only the manifest; parts in a directory
    are read. With --deep it reads, decrypts, decompresses and unpacks all parts, and keeps nothing. Exit status: 0
    without differences, 5 with any; `amistream watch ID` has the same for a job.

    Example: [bold]amistream verify s3://my-bucket/web-1/image.manifest.xml[/bold]

    Example: [bold]amistream verify --deep --private-key pk.pem bundle/image.manifest.xml[/bold]

    Example: [bold]amistream watch $(amistream verify --detach s3://my-bucket/web-1/image.manifest.xml)[/bold]
    """
    shown = showing(quiet=quiet, no_progress=no_progress, as_json=as_json)
    if detach:
        request = validated(VerifyRequest, context, kind=JobKind.VERIFY)
        return Jobs(socket, config, in_process=False, detach=True, shown=shown).submit(request)
    refuse_label(given)
    from amistream.cli.foreground import run_here

    identity = validated(Identity, context)
    certificate_file, key_file = path_of(identity.certificate), path_of(identity.private_key)
    report = run_here(
        settings_for(config, validated(StoreReach, context)),
        lambda session, meter: session.verify(
            manifest, meter, deep=deep, certificate=certificate_file, private_key=key_file
        ),
        "read" if deep else "checked",
        shown,
    )
    exit_status = put_answer(report, report_text, as_json=as_json)
    return DifferenceError.exit_status if report.differences else exit_status
