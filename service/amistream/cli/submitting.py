"""Submits the job of a command that makes one, `bundle` or `convert`, from the command's options."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from amistream.cli.output import put_note
from amistream.cli.request_options import in_option_words, make_request
from amistream.errors import UsageError
from amistream.values import STANDARD_INPUT

if TYPE_CHECKING:
    from amistream.cli.job_access import Jobs
    from amistream.request import BundleRequest
    from amistream.request.convert import ConvertRequest

RunHere = Annotated[
    bool, typer.Option("--in-process", help="Run the job in this process, without a daemon; Ctrl-C cancels it.")
]


def runs_here(given: dict[str, Any], *, in_process: bool) -> bool:
    """The job runs in this process: as asked, or because the daemon has a standard input of its own."""
    return in_process or given["source"] == STANDARD_INPUT


def refuse_label(given: dict[str, Any]) -> None:
    """Raise `UsageError` for a label without a job."""
    if given["label"]:
        raise UsageError(
            "usage", "cannot label the work: without --detach it is no job", hint="add --detach, or leave --label out"
        )


def submit_job(
    context: typer.Context,
    model: type[BundleRequest | ConvertRequest],
    given: dict[str, Any],
    jobs: Jobs,
    *,
    in_process: bool,
) -> int:
    """Submit the job that `given` describes, follow it, and return the exit status."""
    try:
        request = make_request(model, given)
        origin = context.get_parameter_source("config")
        if not in_process and origin is not None and origin.name == "COMMANDLINE":
            put_note("note: the job has the daemon's settings; of --config only the socket counts without --in-process")
        return jobs.submit(request)
    except UsageError as error:
        raise in_option_words(error, context) from error
