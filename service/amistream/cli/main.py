"""The entry point of `amistream`: finds the command, runs it, and turns every error into a message and an exit status.

Exit status: 0 done; 1 bug, or the result could not be written; 2 usage; 3 refused before the first byte; 4 job failed
or was cancelled; 5 a verification found a difference; 6 daemon not reachable; 130 interrupted.
"""

from __future__ import annotations

import inspect
import os
import sys
import traceback
from collections.abc import Mapping
from importlib import import_module
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup

from amistream import __version__
from amistream.cli.output import lost_output, put_error, put_error_document, put_result
from amistream.cli.quick import FULL_HELP, help_text
from amistream.errors import EXIT_DONE, EXIT_INTERRUPTED, AmistreamError, UsageError, shortage_of, system_error
from amistream.process import keep_secrets_in

GROUPS = {
    "Make an AMI": ("bundle", "convert"),
    "Look first": ("init", "inspect", "doctor", "tune"),
    "Jobs": ("jobs", "status", "watch", "logs", "cancel", "resume", "clean"),
    "Bundles": (
        *("list", "verify", "unbundle", "download", "upload", "delete", "prune"),
        *("register", "deregister", "migrate"),
    ),
    "Many hosts": ("fleet",),
    "In a browser": ("web",),
    "Shell": ("completion",),
}
"""The commands, in the order of --help."""
_commands: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (f"amistream.cli.commands.{name}:{name}", {}) for names in GROUPS.values() for name in names},
    "list": ("amistream.cli.commands.listing:list_bundles", {}),
    "fleet": ("amistream.cli.commands.fleet:COMMANDS", {}),
    "web": ("amistream.web.command:web", {}),
}
"""Each command's function as MODULE:FUNCTION, and its context settings. A mapping in place of the function has the
commands below that one, by their names; its help is the module's.
"""


def add_command(name: str, function: str, **context_settings: Any) -> None:
    """Add the command `name`, whose function is `MODULE:FUNCTION`."""
    _commands[name] = function, context_settings


def load_command(name: str) -> TyperCommand | TyperGroup:
    """Import the file of a command and make the command of its function. Raises `KeyError`."""
    function, context_settings = _commands[name]
    place, _, attribute = function.partition(":")
    module = import_module(place)
    given = getattr(module, attribute)
    plain: dict[str, Any] = {"rich_markup_mode": None, "pretty_exceptions_enable": False}
    if isinstance(given, Mapping):
        several = typer.Typer(name=name, cls=_Group, add_completion=False, **plain)
        several.callback(help=module.__doc__)(_nothing)
        for own_name, each in given.items():
            several.command(own_name, cls=_Command, context_settings=context_settings)(each)
        group = typer.main.get_command(several)
        assert isinstance(group, TyperGroup)  # noqa: S101 - for the type checker
        return group
    only = typer.Typer(add_completion=False, **plain)
    only.command(name, cls=_Command, context_settings=context_settings)(given)
    made = typer.main.get_command(only)
    assert isinstance(made, TyperCommand)  # noqa: S101 - for the type checker: a group would have several
    return made


def _nothing() -> None:
    """Do nothing before a command of a group."""


def _help_of(command: TyperCommand | TyperGroup, ctx: Any, *, whole: bool = False) -> str:
    from amistream.cli.command_page import page_of
    from amistream.cli.help_text import help_of

    return help_of(page_of(command, ctx.command_path), whole=whole)


class _Command(TyperCommand):
    """A command whose help is our own: the library's looks different from version to version."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        # Behind the name of an older command all words are for that one.
        if FULL_HELP in (args[:1] if ctx.allow_extra_args else args):
            put_result(_help_of(self, ctx, whole=True))
            raise typer.Exit
        return super().parse_args(ctx, args)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        formatter.write(_help_of(self, ctx))


class _Group(TyperGroup):
    """A command with commands below it. Alone it shows its help."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or args == [FULL_HELP]:
            put_result(ctx.get_help())
            raise typer.Exit
        return super().parse_args(ctx, args)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        formatter.write(_help_of(self, ctx))


class _LazyGroup(_Group):
    """Knows the names of its commands, and imports a command's file when it is called."""

    def __init__(self, **attributes: Any) -> None:
        names = {name: TyperCommand(name) for name in _commands}
        super().__init__(**{**attributes, "commands": names})

    def format_help(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002 - typer's signature
        formatter.write(help_text())

    def get_command(self, ctx: Any, cmd_name: str) -> TyperCommand | TyperGroup | None:  # noqa: ARG002 - typer's signature
        return load_command(cmd_name) if cmd_name in _commands else None


app = typer.Typer(
    cls=_LazyGroup,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _put_version(asked: bool) -> None:
    if asked:
        put_result(f"amistream {__version__}")
        raise typer.Exit


@app.callback()
def _about(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_put_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Bundle a volume into an EC2 instance store-backed (S3-backed) AMI, or convert a bundle or a volume into an AMI on
    EBS: one pass, no temporary copy.

    Jobs run in the daemon amistreamd; this command submits them and shows their progress. Results go to stdout.

    Example: [bold]amistream bundle /dev/xvda --to s3://my-bucket/web-1[/bold]
    """
    del version


def about() -> list[str]:
    """The paragraphs about the program as a whole."""
    paragraphs = inspect.cleandoc(_about.__doc__ or "").replace("[bold]", "").replace("[/bold]", "").split("\n\n")
    return [" ".join(paragraph.split()) for paragraph in paragraphs]


def run(arguments: list[str]) -> int:
    """Run a command and return its exit status. Raises nothing."""
    try:
        command = typer.main.get_command(app)
        status: int | None = command.main(args=arguments, prog_name="amistream", standalone_mode=False)
    except KeyboardInterrupt:  # before click handles the signal
        return EXIT_INTERRUPTED
    except AmistreamError as error:
        return _fail(error, arguments)
    except typer.TyperException as error:
        return _fail(_misused(error), arguments)
    except Exception as error:  # noqa: BLE001 - the outermost handler: every error becomes one line
        if os.environ.get("AMISTREAM_DEBUG") == "1":
            traceback.print_exc()
        if (shortage := shortage_of(error)) is not None:
            return _fail(shortage, arguments)
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
        # `unbundle MANIFEST -` writes the image to stdout.
        put_error_document(error, aside=arguments[:1] == ["unbundle"] and "-" in arguments)
    put_error(error)
    return error.exit_status


def _misused(error: typer.TyperException) -> UsageError:
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "amistream"
    # typer passes pydantic's message about an enum on.
    message = error.format_message().replace("Value error, ", "")
    return UsageError("usage", f"cannot run the command: {message}", hint=f"`{path} --help` shows its usage")
