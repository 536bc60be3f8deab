"""Names of the request's fields on the command line, and fields that stand for a setting."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from pydantic import Field
from pydantic.fields import FieldInfo

from amistream.settings import Settings

DESTINATION = "Destination"
IDENTITY = "Identity"
IMAGE = "Image"
REGISTRATION = "Registration"
SNAPSHOT = "Snapshot"
SPEED = "Speed"
TREE = "Directory"


@dataclass(frozen=True, slots=True)
class Option:
    """Names a field on the command line: its options, their panel in --help, and a placeholder of the value.

    A flag has no placeholder. The variable AMISTREAM_FIELD stands for a field that is a setting too; `variables` are
    those of the EC2 tools.
    """

    names: str
    panel: str
    metavar: str = ""
    variables: tuple[str, ...] = ()


def option_of(field: FieldInfo) -> Option:
    return next(each for each in field.metadata if isinstance(each, Option))


def setting_field(name: str, **bounds: Any) -> Any:
    """A field that takes the place of the setting of the same name, and has the first sentence of its description."""
    about = re.split(r"(?<=\.) (?=[A-Z0-9\"])", Settings.model_fields[name].description or "", maxsplit=1)[0]
    return Field(None, description=about, **bounds)
