"""Checks for `doctor` that the daemon answers, takes jobs, and has the version of this command."""

from __future__ import annotations

from pathlib import Path

from amistream import __version__
from amistream.checks.findings import Finding, Status
from amistream.cli.client import Client
from amistream.errors import AmistreamError


async def check_daemon(socket: Path) -> Finding:
    """Check the daemon at that socket. Raises nothing: a daemon that does not answer is a finding."""
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
