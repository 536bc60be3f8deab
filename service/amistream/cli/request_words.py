"""Turns the values of a command's options into a request, and puts the options' names into errors about fields."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import typer

from amistream.errors import UsageError
from amistream.values import STANDARD_INPUT, is_path

if TYPE_CHECKING:
    from pydantic import BaseModel

_Model = TypeVar("_Model", bound="BaseModel")

FILE_FIELDS = ("source", "certificate", "private_key", "ec2_certificate")
"""Fields with a path. A relative path starts at the caller's directory, which the daemon does not know."""


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
    from amistream.request import parse_fields

    values = {name: value for name in model.model_fields if (value := params.get(name)) not in (None, [], ())}
    for name in (*FILE_FIELDS, "destinations"):
        if values.get(name) == "" or "" in (values.get(name, ()) if name == "destinations" else ()):
            raise UsageError(
                "request.invalid",
                f"cannot take the request: {name}: it is empty",
                hint="is a variable of the script not set?",
                field=name,
            )
    for name in FILE_FIELDS:
        if name in values and values[name] != STANDARD_INPUT:
            values[name] = str(Path(values[name]).absolute())
    if "destinations" in values:
        values["destinations"] = [
            str(Path(destination).absolute()) if is_path(destination) else destination
            for destination in values["destinations"]
        ]
    if "block_device_mappings" in values:
        mappings = [pair for text in values["block_device_mappings"] for pair in text.split(",")]
        values["block_device_mappings"] = _pairs(mappings, "block_device_mappings", "VIRTUAL=DEVICE")
    if "tags" in values:
        values["tags"] = _pairs(values["tags"], "tags", "KEY=VALUE")
    return parse_fields(model, values)


def _pairs(texts: list[str], field: str, form: str) -> dict[str, str]:
    for text in texts:
        if "=" not in text:
            raise UsageError(
                "request.invalid",
                f"cannot take the request: {field}: {text!r} is not of the form {form}",
                hint="`amistream bundle --help` shows an example",
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
    message = error.message
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
    return UsageError(error.code, message, hint=error.hint, field=error.field)


def _option_name(context: typer.Context, field: str) -> str:
    parameter = next(each for each in context.command.params if each.name == field)
    name = next((each for each in parameter.opts if each.startswith("--")), field.upper())
    origin = context.get_parameter_source(field)
    if origin is not None and origin.name == "ENVIRONMENT":
        variables = [parameter.envvar] if isinstance(parameter.envvar, str) else parameter.envvar or []
        name += f" (from {next(each for each in variables if os.environ.get(each))})"
    return name
