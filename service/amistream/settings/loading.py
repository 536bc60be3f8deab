"""Reads the settings: arguments win over `AMISTREAM_*` variables, those over the TOML file, and that over the defaults.

Errors name the argument, the variable or the file at fault.
"""

from __future__ import annotations

import os
import re
import tomllib
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from amistream.errors import UsageError
from amistream.process import DEFAULT_CONFIG
from amistream.settings.model import PREFIX, Settings
from amistream.settings.parsing import in_words
from amistream.shipped import shipped

_OTHER_VARIABLES = ("AMISTREAM_CONFIG", "AMISTREAM_DEBUG")
_OF_CONTAINERS = re.compile("AMISTREAM_(SERVICE_(HOST|PORT)|PORT|NAME|ENV)(_|$)")
"""Variables by which Kubernetes and Docker describe a service with the name `amistream`."""


def config_path(config: Path | None = None) -> Path | None:
    """The configuration file that is read: the given one, that of AMISTREAM_CONFIG, or the default if it exists."""
    named = config or (Path(os.environ["AMISTREAM_CONFIG"]) if os.environ.get("AMISTREAM_CONFIG") else None)
    return named or (DEFAULT_CONFIG if DEFAULT_CONFIG.exists() else None)


def variable_of(name: str) -> str | None:
    """The environment variable that sets a setting, if there is one."""
    return next((each for each in os.environ if each.upper() == f"{PREFIX}{name.upper()}"), None)


def load(config: Path | None = None, **overrides: Any) -> Settings:
    """Read the settings from `config` (default: /etc/amistream/amistream.toml where it exists) and the environment.

    `overrides` that are not None win over everything. Raises `UsageError` naming the file or variable at fault.
    """
    path = config_path(config)
    values = _read(path) if path else {}
    chosen = {name: value for name, value in overrides.items() if value is not None}
    faults = _unknown_variables()
    try:
        # Arguments win over the variables, which the class reads; those win over the file.
        variables = {name.upper() for name in os.environ}
        from_file = {name: each for name, each in values.items() if f"AMISTREAM_{name.upper()}" not in variables}
        settings = Settings(**from_file | chosen)
    except ValidationError as error:
        for fault in error.errors(include_url=False, include_context=False):
            name = str(fault["loc"][0]) if fault["loc"] else "settings"
            variable = f"{PREFIX}{name.upper()}"
            where = "the arguments" if name in chosen else variable if variable in os.environ else str(path)
            unknown = fault["type"] == "extra_forbidden"
            faults.setdefault(name, f"(from {where}): {_no_such(name) if unknown else in_words(fault)}")
    if faults:
        (name, first), *others = faults.items()
        also = [f"also: the setting {other} {reason}" for other, reason in others]
        raise UsageError(
            "settings.invalid",
            f"cannot use the setting {name} {first}",
            hint="\n".join([f"{shipped('amistream.toml')} lists every setting with its unit and default", *also]),
            field=name,
        )
    return settings


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except OSError as error:
        raise UsageError(
            "settings.unreadable",
            f"cannot read the configuration {path}: {error.strerror}",
            hint="check the path and its permissions; without --config and AMISTREAM_CONFIG it is "
            f"{DEFAULT_CONFIG}, where there is one",
            field="config",
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(
            "settings.syntax",
            f"cannot read the configuration {path}: {error}",
            hint='it is TOML: text, and sizes with a unit, are in quotes, such as part_size = "10MiB"',
            field="config",
        ) from error


def _unknown_variables() -> dict[str, str]:
    """The faults of variables that look like a setting's: by the name, where it comes from and the reason."""
    names = [name for name in os.environ if name.startswith(PREFIX)]
    known = {*_OTHER_VARIABLES, *(f"{PREFIX}{name.upper()}" for name in Settings.model_fields)}
    unknown = [name for name in names if name not in known and not _OF_CONTAINERS.match(name)]
    return {
        (setting := name.removeprefix(PREFIX).lower()): f"(from {name}): {_no_such(setting)}"
        for name in sorted(unknown)
    }


def _no_such(name: str) -> str:
    close = get_close_matches(name, Settings.model_fields, n=1)
    return f"there is no such setting; is {close[0]} meant?" if close else "there is no such setting"
