"""Gives a command the options of a request's fields: names, variables and help come from the fields themselves.

Values stay text or flags here, and the models of `amistream.request` validate them, so that the command and the socket
API say the same.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_args, get_origin

import typer

from amistream.request import JobRequest, Option
from amistream.settings import Settings

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

_Command = TypeVar("_Command", bound=Callable[..., int])


def takes(*fields: str, optional: tuple[str, ...] = ()) -> Callable[[_Command], _Command]:
    """Add an option for each of these fields of `JobRequest` in place of the command's `**given`."""

    def add_options(command: _Command) -> _Command:
        signature = inspect.signature(command, eval_str=True)
        own = [each for each in signature.parameters.values() if each.kind is not each.VAR_KEYWORD]
        positional = [each for each in own if each.kind is not each.KEYWORD_ONLY]
        added = [_parameter(name, required=name not in optional) for name in fields]
        parameters = [*positional, *added, *own[len(positional) :]]
        command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined] # typer reads it
        return command

    return add_options


def option_of(field: FieldInfo) -> Option:
    return next(each for each in field.metadata if isinstance(each, Option))


def variables_of(name: str) -> list[str]:
    """The environment variables that set a field, the first that is set wins."""
    own = [f"AMISTREAM_{name.upper()}"] if name in Settings.model_fields else []
    return [*own, *option_of(JobRequest.model_fields[name]).variables]


def _parameter(name: str, *, required: bool) -> inspect.Parameter:
    field = JobRequest.model_fields[name]
    option = option_of(field)
    required = required and field.is_required()
    form: Any = _form(field)
    shown: dict[str, Any] = {"help": field.description, "show_default": False}
    if not option.names.startswith("-"):
        info = typer.Argument(metavar=option.names, **shown)
    else:
        info = typer.Option(
            *option.names.split(),
            metavar=option.metavar or None,
            envvar=variables_of(name) or None,
            rich_help_panel=option.panel or None,
            **shown,
        )
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=inspect.Parameter.empty if required else None,
        annotation=operator.getitem(Annotated, (form if required else form | None, info)),
    )


def _form(field: FieldInfo) -> type[Any]:
    """The form of the option's value: a flag, several texts, or one."""
    if bool in {field.annotation, *get_args(field.annotation)}:
        return bool
    return list[str] if get_origin(field.annotation) in {tuple, dict} else str
