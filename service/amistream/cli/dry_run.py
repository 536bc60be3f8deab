"""`--dry-run` of the commands that make jobs: the findings of all checks, then the plan of the job, which is not begun.

The checks run where the job would; the plan is made in this process, which reads the volume and reaches AWS itself.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from amistream.cli.output import put_note, put_result
from amistream.errors import AmistreamError
from amistream.request import BundleRequest
from amistream.values import STANDARD_INPUT

if TYPE_CHECKING:
    from amistream.jobs.forecast import Forecast
    from amistream.request.convert import ConvertRequest
    from amistream.settings import Settings

DryRunOption = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        "-n",
        help="Only run the job's checks and estimate the job: bytes, time, memory, cost. Stores nothing but a probe, "
        "which is deleted.",
    ),
]


def dry_run(
    request: BundleRequest | ConvertRequest, settings: Settings, socket: Path | None, *, as_json: bool, verbose: bool
) -> int:
    """Write findings and plan, and return the exit status of the checks."""
    from amistream.cli.commands.doctor import find, findings_json, put_findings, status_of

    findings = find(request, settings, socket)
    if not as_json:
        put_findings(findings, as_json=False, verbose=verbose)
    plan, reason = _plan(request, settings)
    if as_json:
        document = plan.model_dump_json() if plan is not None else "null"
        put_result(f'{{"findings":{findings_json(findings)},"plan":{document},"reason":{json.dumps(reason)}}}')
    elif plan is not None:
        from amistream.cli.forecast_text import forecast_text

        put_result("\n" + forecast_text(plan, "part" if isinstance(request, BundleRequest) else "block"))
    else:
        put_note(f"no estimate: {reason}")
    return status_of(findings)


def _plan(request: BundleRequest | ConvertRequest, settings: Settings) -> tuple[Forecast | None, str]:
    """Estimate the job; without an estimate the second value says why."""
    if request.source == STANDARD_INPUT:
        return None, "standard input can be read only once"
    from amistream.cli.foreground import run
    from amistream.jobs.conversion_forecast import forecast_conversion
    from amistream.jobs.forecast import forecast_bundle

    async def work() -> Forecast:
        if isinstance(request, BundleRequest):
            return await forecast_bundle(request, settings, put_note)
        return await forecast_conversion(request, settings)

    try:
        return run(work, after_interrupt="nothing was left behind"), ""
    except AmistreamError as error:
        if error.code == "interrupted":
            raise
        return None, error.message
