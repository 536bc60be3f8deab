"""The command `doctor`: what stands in the way of a job on this machine, and what would mend it.

It takes the words of `bundle` and looks, in this process, at all that a job with them would look at before it begins,
and at the machine and its daemon besides.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from amistream.cli import bundle_options as options
from amistream.cli.options import ConfigOption, JsonOption, SocketOption
from amistream.cli.output import put_note, put_result
from amistream.cli.request_words import in_option_words, make_request
from amistream.errors import EXIT_DONE, EXIT_INTERRUPTED, RefusedError, UsageError

if TYPE_CHECKING:
    from amistream.checks.findings import Finding
    from amistream.request import JobRequest
    from amistream.settings import Settings

NOT_GIVEN: dict[str, Any] = {"source": "/dev/null", "destinations": ["/"]}
"""What stands in a request, which must name both, for a source or destination that was not given."""

Source = Annotated[
    str | None, typer.Argument(metavar="SOURCE", help="Image file or block device to look at.", show_default=False)
]
Destinations = Annotated[
    list[str] | None,
    typer.Option(
        "--to",
        rich_help_panel=options.DESTINATION,
        metavar="s3://BUCKET[/KEY/PREFIX]|DIR",
        help="Where a bundle would go; may be repeated.",
        show_default=False,
    ),
]
InProcess = Annotated[
    bool, typer.Option("--in-process", help="Leave the daemon out: jobs are to run with --in-process too.")
]


def doctor(
    context: typer.Context,
    source: Source = None,
    *,
    destinations: Destinations = None,
    all_or_none: options.AllOrNone = None,
    image_size: options.ImageSize = None,
    live: options.Live = None,
    prefix: options.Prefix = None,
    region: options.Region = None,
    endpoint_url: options.EndpointUrl = None,
    acl: options.Acl = None,
    account: options.Account = None,
    certificate: options.Certificate = None,
    private_key: options.PrivateKey = None,
    ec2_certificate: options.Ec2Certificate = None,
    architecture: options.Architecture = None,
    virtualization: options.Virtualization = None,
    kernel: options.Kernel = None,
    ramdisk: options.Ramdisk = None,
    block_device_mappings: options.BlockDeviceMappings = None,
    product_codes: options.ProductCodes = None,
    ancestors: options.Ancestors = None,
    inherit: options.Inherit = None,
    register_image: options.RegisterImage = None,
    ami_name: options.AmiName = None,
    description: options.Description = None,
    sriov: options.Sriov = None,
    ena: options.Ena = None,
    tags: options.Tags = None,
    part_size: options.PartSize = None,
    upload_concurrency: options.UploadConcurrency = None,
    compress: options.Compress = None,
    workers: options.Workers = None,
    sparse: options.Sparse = None,
    limit_upload: options.LimitUpload = None,
    memory_limit: options.MemoryLimit = None,
    nice: options.Nice = None,
    in_process: InProcess = False,
    socket: SocketOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> int:
    """Look for all that would make a job fail, and say what mends it.

    Give it the words of a `bundle` command; without SOURCE or --to it looks at this machine alone. Nothing is changed,
    but for a small object that is put to the destination and deleted again. It sees with your rights and your
    environment, where the daemon has its own. Exit status: 0 when nothing failed, else 3.

    Example: [bold]amistream doctor[/bold]

    Example: [bold]amistream doctor /dev/xvda --to s3://my-bucket/web --ami-name web-1[/bold]
    """
    from amistream.settings import load

    given = {name: value for name in NOT_GIVEN if (value := context.params[name])}
    try:
        request = make_request({**context.params, **NOT_GIVEN, **given})
    except UsageError as error:
        raise in_option_words(error, context) from error
    settings = load(config)
    try:
        findings = _examine(request, settings, given, None if in_process else socket or settings.socket)
    except KeyboardInterrupt:
        put_note("interrupted; nothing was left behind")
        return EXIT_INTERRUPTED
    put_result(findings_json(findings) if as_json else findings_text(findings))
    return RefusedError.exit_status if any(finding.status == "failed" for finding in findings) else EXIT_DONE


def findings_json(findings: Sequence[Finding]) -> str:
    """One line: the list of findings."""
    return f"[{','.join(finding.model_dump_json() for finding in findings)}]"


def findings_text(findings: Sequence[Finding]) -> str:
    """A line for each finding; below one that is not well, why it matters and what mends it."""
    width = max(len(finding.name) for finding in findings)
    lines = []
    for finding in findings:
        lines.append(f"{finding.status:<8} {finding.name:<{width}}  {finding.found}")
        about = (("why", finding.why), ("fix", finding.fix))
        for word, text in about:
            lines += [f"{'':{width + 9}}  {word}  {line}" for line in text.splitlines()]
    counts = Counter(finding.status.value for finding in findings)
    summary = ", ".join(f"{counts[status]} {status}" for status in ("failed", "notice", "ok", "skipped"))
    return "\n".join([*lines, "", summary])


def _examine(request: JobRequest, settings: Settings, given: dict[str, Any], socket: Path | None) -> list[Finding]:
    from amistream import log
    from amistream.checks.findings import Finding, Status
    from amistream.settings import LogFormat

    log.configure("error", LogFormat.TEXT)
    try:
        import uvloop

        from amistream.checks.doctor import examine
        from amistream.cli.daemon_check import look_at_daemon
    except ImportError as error:
        return [
            Finding(
                name="libraries",
                status=Status.FAILED,
                found=f"cannot work without {error.name}: {error}",
                why="nothing else can be looked at",
                fix="install amistream again, with what it needs: pip install --force-reinstall amistream",
                code="libraries.missing",
            )
        ]

    async def run() -> list[Finding]:
        found = await examine(request, settings, source="source" in given, destination="destinations" in given)
        return found if socket is None else [await look_at_daemon(socket), *found]

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(run())
