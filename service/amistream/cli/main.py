"""The entry point of `amistream`: parses the words, runs one command, and turns every error into words and a status.

Exit status: 0 done; 1 bug, or the result could not be written; 2 usage; 3 refused before the first byte; 4 job failed
or was cancelled; 5 a verification found a difference; 6 daemon not reachable; 130 interrupted.
"""

from __future__ import annotations

import os
import sys
import traceback
from typing import Annotated, NoReturn

import typer

from amistream import __version__
from amistream.cli.commands import (
    bundle,
    delete,
    doctor,
    jobs,
    listing,
    migrate,
    register,
    transfer,
    tune,
    unbundle,
    verify,
)
from amistream.cli.output import lost_output, put_error, put_error_document, put_result
from amistream.errors import EXIT_DONE, EXIT_INTERRUPTED, AmistreamError, UsageError, system_error
from amistream.process import keep_secrets_in

app = typer.Typer(
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _command in (
    bundle.bundle,
    jobs.jobs,
    jobs.status,
    jobs.watch,
    jobs.cancel,
    jobs.resume,
    jobs.clean,
    doctor.doctor,
    tune.tune,
    verify.verify,
    unbundle.unbundle,
    transfer.download,
    transfer.upload,
    delete.delete,
    register.register,
    delete.deregister,
    migrate.migrate,
):
    app.command()(_command)
app.command("list")(listing.list_bundles)


def _put_version(asked: bool) -> None:
    if asked:
        put_result(f"amistream {__version__}")
        raise typer.Exit


@app.callback()
def _about(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_put_version, is_eager=True, help="Show the version and leave.")
    ] = False,
) -> None:
    """Bundle a volume into an EC2 instance store-backed (S3-backed) AMI: one pass, no temporary copy.

    Jobs run in the daemon amistreamd; this command hands them in and shows them. Results go to stdout, progress to
    stderr.

    Example: [bold]amistream bundle /dev/xvda --to s3://my-bucket/images --ami-name web-1[/bold]
    """
    del version


def run(arguments: list[str]) -> int:
    """Run the command that `arguments` name and return its exit status. Raises nothing."""
    try:
        command = typer.main.get_command(app)
        status: int | None = command.main(args=arguments, prog_name="amistream", standalone_mode=False)
    except KeyboardInterrupt:  # before click took the signal over
        return EXIT_INTERRUPTED
    except AmistreamError as error:
        return _fail(error, arguments)
    except typer.TyperException as error:
        return _fail(_misused(error), arguments)
    except Exception as error:  # noqa: BLE001 - the last border: whatever it is, the user gets one line
        if os.environ.get("AMISTREAM_DEBUG") == "1":
            traceback.print_exc()
        if isinstance(error, OSError):
            return _fail(system_error(error), arguments)
        return _fail(
            AmistreamError(
                "internal.bug",
                f"cannot go on: an error in amistream itself ({type(error).__name__}: {error})",
                hint="please report it as a bug; AMISTREAM_DEBUG=1 shows where it happened",
            ),
            arguments,
        )
    if not status and (lost := lost_output()):
        put_error(lost)
        return lost.exit_status
    return status if status is not None else EXIT_DONE


def main() -> NoReturn:
    keep_secrets_in()
    sys.exit(run(sys.argv[1:]))


def _fail(error: AmistreamError, arguments: list[str]) -> int:
    if "--json" in arguments:
        # Of `unbundle MANIFEST -` standard output is the image's.
        put_error_document(error, aside=arguments[:1] == ["unbundle"] and "-" in arguments)
    put_error(error)
    return error.exit_status


def _misused(error: typer.TyperException) -> UsageError:
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "amistream"
    # typer hands on what pydantic says of an enum.
    message = error.format_message().replace("Value error, ", "")
    return UsageError("usage", f"cannot run the command: {message}", hint=f"`{path} --help` shows how it is used")
