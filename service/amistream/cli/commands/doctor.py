"""The command `doctor`: runs all checks of a job, of this machine and of its daemon, without starting the job."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from amistream import __version__
from amistream.checks.findings import Finding, Status
from amistream.cli.options import ConfigOption, JsonOption, SocketOption
from amistream.cli.output import put_result
from amistream.cli.request_options import fields_of, takes, validated
from amistream.cli.terminal import painted
from amistream.errors import EXIT_DONE, AmistreamError, NotFoundError, RefusedError
from amistream.request import CheckRequest
from amistream.request.convert import ConvertCheckRequest

if TYPE_CHECKING:
    from amistream.cli.client import Health
    from amistream.settings import Settings

_ORDER = (Status.OK, Status.SKIPPED, Status.UNKNOWN, Status.NOTICE, Status.FAILED)
_STYLES = {"ok": "good", "failed": "bad", "notice": "careful", "unknown": "careful", "skipped": "faint"}

Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show also what each check found that is ok.")]
InProcess = Annotated[
    bool,
    typer.Option("--in-process", help="Check this process and not the daemon, for jobs that run with --in-process."),
]


@takes(*fields_of(CheckRequest), optional=("source", "destinations"))
def doctor(
    context: typer.Context,
    *,
    in_process: InProcess = False,
    verbose: Verbose = False,
    socket: SocketOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
    **_: Any,
) -> int:
    """Run all of a job's checks without starting it, and report every problem with its fix.

    It takes the same arguments as `bundle`; without SOURCE and --to it checks this machine alone. Of a conversion,
    `convert --dry-run` does the same. It changes nothing, except that it writes and deletes one empty test object at
    the destination, and runs the program of --script as the job would. Nothing is frozen. The daemon runs the checks,
    with its settings and environment and, for members of its group, with their rights; without a daemon, or with
    --in-process, this process does. Exit status: 0 when no check failed, else 3.

    Example: [bold]amistream doctor[/bold]

    Example: [bold]amistream doctor /dev/xvda --to s3://my-bucket/web --ami-name web-1[/bold]
    """
    from amistream.settings import load

    request = validated(CheckRequest, context)
    settings = load(config)
    findings = find(request, settings, None if in_process else socket or settings.socket)
    put_findings(findings, as_json=as_json, verbose=verbose)
    return status_of(findings)


def put_findings(findings: Sequence[Finding], *, as_json: bool, verbose: bool) -> None:
    """Write what the checks found."""
    if as_json:
        put_result(findings_json(findings))
    else:
        put_result(findings_text(findings, with_all=verbose), paint_finding)


def status_of(findings: Sequence[Finding]) -> int:
    """The exit status of checks."""
    return RefusedError.exit_status if any(finding.status == "failed" for finding in findings) else EXIT_DONE


def findings_json(findings: Sequence[Finding]) -> str:
    """Format the list of findings in one line."""
    return f"[{','.join(finding.model_dump_json() for finding in findings)}]"


def findings_text(findings: Sequence[Finding], *, with_all: bool = True) -> str:
    """Format a line for each finding, the failed ones last; below a problem stand its reason and its fix.

    Without `with_all` the checks that found nothing share one line.
    """
    width = max(len(finding.name) for finding in findings)
    well = [finding.name for finding in findings if finding.status is Status.OK]
    lines = [] if with_all or not well else [f"{'ok':<8} {', '.join(well)}"]
    for finding in sorted(findings, key=lambda finding: _ORDER.index(finding.status)):
        if finding.status is Status.OK and not with_all:
            continue
        lines.append(f"{finding.status:<8} {finding.name:<{width}}  {finding.found}")
        about = (("why", finding.why), ("fix", finding.fix))
        for word, text in about:
            lines += [f"{'':{width + 9}}  {word}  {line}" for line in text.splitlines()]
    counts = Counter(finding.status.value for finding in findings)
    statuses = ("failed", "notice", "ok", "skipped", *(["unknown"] if counts["unknown"] else []))
    summary = ", ".join(f"{counts[status]} {status}" for status in statuses)
    return "\n".join([*lines, "", summary])


def paint_finding(line: str) -> str:
    """Colour the status at the beginning of a line."""
    status = line.partition(" ")[0]
    style = _STYLES.get(status)
    return painted(status, style) + line[len(status) :] if style else line


def find(request: CheckRequest | ConvertCheckRequest, settings: Settings, socket: Path | None) -> list[Finding]:
    """Run the checks, in the daemon at `socket` or here."""
    try:
        from amistream import pipeline  # noqa: F401 - a job needs its libraries, which the checks do not import
        from amistream.aws.session import Aws
        from amistream.checks.doctor import examine
        from amistream.cli.foreground import run
    except ImportError as error:
        return [
            Finding(
                name="libraries",
                status=Status.FAILED,
                found=f"cannot work without {error.name}: {error}",
                why="nothing else can be checked",
                fix="install amistream again, with what it needs: pip install --force-reinstall amistream",
                code="libraries.missing",
            )
        ]

    async def work() -> list[Finding]:
        found: list[Finding] = []
        if socket is not None:
            found, are_all = await _ask_daemon(request, socket)
            if are_all:
                return found
        async with Aws(settings) as aws:
            return [*found, *await examine(request, settings, aws)]

    return run(work, after_interrupt="nothing was left behind")


async def _ask_daemon(request: CheckRequest | ConvertCheckRequest, socket: Path) -> tuple[list[Finding], bool]:
    """Check the daemon and have it run the checks; without a daemon that knows them, the second value is false."""
    from amistream.cli.client import Client

    async with Client(socket) as client:
        try:
            health = await client.health()
        except AmistreamError as error:
            return [Finding.failed("daemon", "no job could run", error)], False
        daemon = _daemon_finding(health, socket)
        try:
            return [daemon, *(await client.doctor(request)).findings], True
        except NotFoundError:
            return [daemon], False
        except AmistreamError as error:
            return [daemon, Finding.failed("checks", "the daemon would refuse such a job", error)], True


def _daemon_finding(health: Health, socket: Path) -> Finding:
    found = f"amistreamd {health.version} at {socket}, {health.jobs_running} running, {health.jobs_queued} waiting"
    why = fix = ""
    if health.status != "ok":
        found, why, fix = f"{found}, stopping", "it takes no new jobs", "systemctl start amistream, after it has ended"
    elif health.notices:
        found, why = f"{found}; {'; '.join(health.notices)}", "a lost job cannot be resumed, and its parts stay stored"
        fix = "`amistream list s3://BUCKET --orphans` shows what lost jobs have stored"
    elif health.version != __version__:
        found = f"{found}; this command is {__version__}"
        why, fix = "options that only one of the two knows are refused", "systemctl restart amistream, when no job runs"
    return Finding(name="daemon", status=Status.NOTICE if why else Status.OK, found=found, why=why, fix=fix)
