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
from amistream.cli.request_options import takes, validated
from amistream.errors import EXIT_DONE, AmistreamError, RefusedError
from amistream.request import CheckRequest

if TYPE_CHECKING:
    from amistream.settings import Settings

InProcess = Annotated[
    bool, typer.Option("--in-process", help="Do not check the daemon, for jobs that run with --in-process.")
]


@takes(*CheckRequest.model_fields, optional=("source", "destinations"))
def doctor(
    context: typer.Context,
    *,
    in_process: InProcess = False,
    socket: SocketOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
    **_: Any,
) -> int:
    """Run all of a job's checks without starting it, and report every problem with its fix.

    It takes the same arguments as `bundle`; without SOURCE and --to it checks this machine alone. It changes nothing,
    except that it writes and deletes one empty test object at the destination. It runs with your rights and your
    environment; the daemon has its own. Exit status: 0 when no check failed, else 3.

    Example: [bold]amistream doctor[/bold]

    Example: [bold]amistream doctor /dev/xvda --to s3://my-bucket/web --ami-name web-1[/bold]
    """
    from amistream.settings import load

    request = validated(CheckRequest, context)
    settings = load(config)
    findings = _examine(request, settings, None if in_process else socket or settings.socket)
    put_result(findings_json(findings) if as_json else findings_text(findings))
    return RefusedError.exit_status if any(finding.status == "failed" for finding in findings) else EXIT_DONE


def findings_json(findings: Sequence[Finding]) -> str:
    """Format the list of findings in one line."""
    return f"[{','.join(finding.model_dump_json() for finding in findings)}]"


def findings_text(findings: Sequence[Finding]) -> str:
    """Format a line for each finding; below a problem stand its reason and its fix."""
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


def _examine(request: CheckRequest, settings: Settings, socket: Path | None) -> list[Finding]:
    try:
        from amistream import pipeline  # noqa: F401 - a job needs its libraries, which the checks do not import
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
        found = await examine(request, settings)
        return found if socket is None else [await _check_daemon(socket), *found]

    return run(work, after_interrupt="nothing was left behind")


async def _check_daemon(socket: Path) -> Finding:
    """Check the daemon at that socket. Raises nothing: a daemon that does not answer is a finding."""
    from amistream.cli.client import Client

    try:
        async with Client(socket) as client:
            health = await client.health()
    except AmistreamError as error:
        return Finding(
            name="daemon",
            status=Status.FAILED,
            found=error.message,
            why="no job could run",
            fix=error.hint,
            code=error.code,
        )
    found = f"amistreamd {health.version} at {socket}, {health.jobs_running} running, {health.jobs_queued} waiting"
    why = fix = ""
    if health.status != "ok":
        found, why, fix = f"{found}, stopping", "it takes no new jobs", "systemctl start amistream, after it has ended"
    elif health.version != __version__:
        found = f"{found}; this command is {__version__}"
        why, fix = "options that only one of the two knows are refused", "systemctl restart amistream, when no job runs"
    return Finding(name="daemon", status=Status.NOTICE if why else Status.OK, found=found, why=why, fix=fix)
