"""The options of commands and the request they become. An option of `bundle` or `convert` is added in `request`.

Names, variables and help come from the fields of a request. Values stay text or flags here, and the models of
`amistream.request` validate them, so that the command and the socket API say the same; errors about fields name
the options.
"""

from __future__ import annotations

import inspect
import operator
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_args, get_origin

import typer

from amistream.errors import UsageError
from amistream.location import SCHEME
from amistream.request import FIELD_HELP, FSTAB_WORDS, BundleRequest, option_of, parse_fields
from amistream.settings import Settings
from amistream.values import STANDARD_INPUT, is_path, is_snapshot

if TYPE_CHECKING:
    from pydantic import BaseModel
    from pydantic.fields import FieldInfo

_Command = TypeVar("_Command", bound=Callable[..., int])
_Model = TypeVar("_Model", bound="BaseModel")

PAIRS = {"tags": "KEY=VALUE", "snapshot_tags": "KEY=VALUE"}
"""Fields of which each value of the option is a pair."""
FILE_FIELDS = (
    *("source", "manifest", "certificate", "private_key", "ec2_certificate"),
    *("report", "overlay", "grub_config", "script"),
)
"""Fields with a path. A relative path starts at the caller's directory, which the daemon does not know."""


def fields_of(model: type[BaseModel]) -> tuple[str, ...]:
    """The fields of a request that are options: all but its kind, which the command says."""
    return tuple(name for name in model.model_fields if name != "kind")


def takes(
    *fields: str, optional: tuple[str, ...] = (), model: type[BaseModel] = BundleRequest
) -> Callable[[_Command], _Command]:
    """Add an option for each of these fields of `model` in place of the command's `**given`."""

    def add_options(command: _Command) -> _Command:
        signature = inspect.signature(command, eval_str=True)
        own = [each for each in signature.parameters.values() if each.kind is not each.VAR_KEYWORD]
        positional = [each for each in own if each.kind is not each.KEYWORD_ONLY]
        added = [_parameter(model, name, required=name not in optional) for name in fields]
        parameters = [*positional, *added, *own[len(positional) :]]
        command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined] # typer reads it
        return command

    return add_options


def variables_of(name: str, model: type[BaseModel] = BundleRequest) -> list[str]:
    """The environment variables that set a field, the first that is set wins."""
    own = [f"AMISTREAM_{name.upper()}"] if name in Settings.model_fields else []
    return [*own, *option_of(model.model_fields[name]).variables]


def _parameter(model: type[BaseModel], name: str, *, required: bool) -> inspect.Parameter:
    field = model.model_fields[name]
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
            envvar=variables_of(name, model) or None,
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


def validated(model: type[_Model], context: typer.Context, **instead: Any) -> _Model:
    """Validate the command's options as fields of `model`; `instead` holds values that take an option's place.

    Raises `UsageError`, which names the options.
    """
    try:
        return make_request(model, {**context.params, **instead})
    except UsageError as error:
        raise in_option_words(error, context) from error


def make_request(model: type[_Model], params: dict[str, Any]) -> _Model:
    """Validate a command's parameters as fields of `model`. Raises `UsageError` that names the field."""
    values = {name: value for name in model.model_fields if (value := params.get(name)) not in (None, [], ())}
    for name in (*FILE_FIELDS, "fstab", "destinations"):
        if values.get(name) == "" or "" in (values.get(name, ()) if name == "destinations" else ()):
            raise UsageError(
                "request.invalid",
                f"cannot take the request: {name}: it is empty",
                hint="is a variable of the script not set?",
                field=name,
            )
    for name in FILE_FIELDS:
        if name in values and not _is_address(values[name]):
            values[name] = str(Path(values[name]).absolute())
    if values.get("fstab", FSTAB_WORDS[0]) not in FSTAB_WORDS:
        values["fstab"] = str(Path(values["fstab"]).absolute())
    if "destinations" in values:
        values["destinations"] = [
            str(Path(destination).absolute()) if is_path(destination) else destination
            for destination in values["destinations"]
        ]
    if "block_device_mappings" in values:
        mappings = [pair for text in values["block_device_mappings"] for pair in text.split(",")]
        values["block_device_mappings"] = _pairs(mappings, "block_device_mappings", "VIRTUAL=DEVICE")
    for name, form in PAIRS.items():
        if name in values:
            values[name] = _pairs(values[name], name, form)
    return parse_fields(model, values)


def _is_address(text: str) -> bool:
    """The text is no path of this machine; ./ before it makes it one."""
    return text == STANDARD_INPUT or is_snapshot(text) or text.startswith(SCHEME)


def _pairs(texts: list[str], field: str, form: str) -> dict[str, str]:
    for text in texts:
        if "=" not in text:
            raise UsageError(
                "request.invalid",
                f"cannot take the request: {field}: {text!r} is not of the form {form}",
                hint="`--help` shows an example",
                field=field,
            )
    names = [text.partition("=")[0] for text in texts]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UsageError(
            "request.invalid", f"cannot take the request: {field}: {twice!r} is given more than once", field=field
        )
    return dict(text.split("=", 1) for text in texts)


def in_option_words(error: UsageError, context: typer.Context) -> UsageError:
    """Replace the field's name by the option's, and add the variable that set it, if one did."""
    message, hint = error.message, error.hint.replace(FIELD_HELP, "")
    for field in context.params:
        hint = hint.replace(f"also: {field}: ", f"also: {_option_name(context, field)}: ")
    if error.field in context.params:
        name = _option_name(context, error.field)
        if f": {error.field}: " in message:
            message = message.replace(f": {error.field}: ", f": {name}: ", 1)
        elif name not in message:
            message = f"{message} ({name})"
    elif not error.field:
        # Errors about several fields name them in the sentence.
        for field in context.params:
            message = re.sub(rf"\b{field}\b", _option_name(context, field), message)
    return UsageError(error.code, message, hint=hint, field=error.field)


def _option_name(context: typer.Context, field: str) -> str:
    parameter = next(each for each in context.command.params if each.name == field)
    name = next((each for each in parameter.opts if each.startswith("--")), field.upper())
    origin = context.get_parameter_source(field)
    if origin is not None and origin.name == "ENVIRONMENT":
        variables = [parameter.envvar] if isinstance(parameter.envvar, str) else parameter.envvar or []
        name += f" (from {next(each for each in variables if os.environ.get(each))})"
    return name
