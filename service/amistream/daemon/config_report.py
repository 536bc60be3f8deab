"""`amistreamd --check-config` and `--print-config`: the settings that a start would have, and all their faults."""

from __future__ import annotations

import json
import os
import re
import shutil
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ByteSize

from amistream.daemon.listener import find_group
from amistream.errors import AmistreamError, UsageError
from amistream.keys import load_certificate, load_identity
from amistream.settings import Settings, config_path, variable_of
from amistream.values import GIB, KIB, MIB

_URL_PRIVATE = re.compile(r"(?<=//)[^/\s@]*@|\?\S+")
"""User and password, and the query, of a URL."""
_COMMANDS = ("on_success", "on_failure")
"""Settings that are commands: their arguments are not shown."""


def faults_of(settings: Settings) -> list[AmistreamError]:
    """The faults of settings whose values are well-formed: what they name does not exist, or cannot be used."""
    return list(_faults(settings))


def useless_roots(roots: Iterable[Path]) -> Iterator[tuple[Path, str]]:
    """The roots that allow nothing, because a root must be a real path, each with the reason."""
    for root in roots:
        real = Path(os.path.realpath(root))
        if real != root:
            yield root, f"it is a link to {real}"
        elif not root.exists():
            yield root, "it does not exist"


def _faults(settings: Settings) -> Iterator[AmistreamError]:
    try:
        find_group(settings.socket_group)
    except AmistreamError as error:
        yield error
    for root, why in useless_roots(settings.source_roots):
        yield UsageError(
            "settings.source_roots",
            f"cannot allow {root} as one of source_roots: {why}",
            hint="write the real path",
            field="source_roots",
        )
    try:
        if settings.certificate is not None and settings.private_key is not None:
            load_identity(settings.certificate, settings.private_key, exposed_too=settings.allow_exposed_key)
        elif settings.certificate is not None or settings.private_key is not None:
            yield UsageError(
                "settings.pair",
                "cannot use the settings certificate and private_key: one of the two is missing",
                hint="give both, or neither",
                field="private_key",
            )
    except AmistreamError as error:
        yield error
    yield from _report_faults(settings)
    for path in settings.ec2_certificates.values():
        try:
            load_certificate(path, field="ec2_certificates")
        except AmistreamError as error:
            yield error


def _report_faults(settings: Settings) -> Iterator[AmistreamError]:
    """The faults of the settings that tell others of jobs."""
    for name in _COMMANDS:
        command = getattr(settings, name)
        if command and shutil.which(command[0]) is None:
            yield UsageError(
                "settings.hook",
                f"cannot run {command[0]}, the command of {name}: there is no such program",
                hint="write its whole path; the daemon's user must be allowed to execute it",
                field=name,
            )
    if (page := settings.metrics_textfile) is not None and not page.parent.is_dir():
        yield UsageError(
            "settings.metrics_textfile",
            f"cannot write {page}: there is no directory {page.parent}",
            hint="give a file in the directory of node_exporter's --collector.textfile.directory",
            field="metrics_textfile",
        )


def config_text(settings: Settings, config: Path | None, arguments: Mapping[str, Any]) -> str:
    """Format the effective settings as TOML, each with the place where it comes from.

    Passwords in URLs and arguments of commands are left out.
    """
    path = config_path(config)
    in_file = tomllib.loads(path.read_text()) if path is not None else {}

    def line(name: str) -> str:
        value = getattr(settings, name)
        if name in _COMMANDS:
            # An argument may be a password.
            value = value[:1]
        origin = "default"
        if arguments.get(name) is not None:
            origin = "an argument"
        elif (variable := variable_of(name)) is not None:
            origin = variable
        elif name in in_file:
            origin = str(path)
        return f"#{name} =  # not set" if value is None else f"{name} = {toml(value)}  # {origin}"

    return "\n".join(line(name) for name in Settings.model_fields)


def toml(value: Any) -> str:
    """A value of a setting as TOML."""
    match value:
        case bool():
            return str(value).lower()
        case ByteSize():
            units = ((GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB"))
            found = next(((size, unit) for size, unit in units if value and value % size == 0), None)
            return f'"{value // found[0]}{found[1]}"' if found else str(int(value))
        case int() | float():
            return str(value)
        case tuple():
            return f"[{', '.join(map(toml, value))}]"
        case dict():
            pairs = ", ".join(f"{json.dumps(key)} = {toml(each)}" for key, each in value.items())
            return f"{{ {pairs} }}" if value else "{}"
        case _:
            pass
    # A basic string of TOML has the escapes of JSON, but not those of pairs of surrogates.
    return json.dumps(_URL_PRIVATE.sub("", str(value)), ensure_ascii=False)
