"""Makes messages of JSON lines, and of the bundles below an address. Nothing here uses the network.

A line is a message, of which `v` may be left out. Every line is checked before the first is sent.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

from pydantic_core import from_json

from amistream.errors import MessageError, UsageError
from amistream.events import JobKind
from amistream.fleet.messages import LARGEST, VERSION, Message, read_message
from amistream.location import SCHEME

_LONGEST_NAME = 128
_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9._:@+=/-]")
_DIGEST = 16
"""Hex digits of a digest that keeps shortened names apart."""


def read_lines(lines: Iterable[str], *, file: str, label: str = "") -> list[Message]:
    """Read one message a line; empty lines are passed over. `label` is that of lines without one.

    Raises `UsageError`, which names the file and the line.
    """
    messages: list[Message] = []
    places: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            message = read_message(_completed(line, label))
        except MessageError as error:
            raise UsageError(
                error.code, f"{file}, line {number}: {error.message}", hint=error.hint, field=error.field
            ) from error
        if (first := places.setdefault(message.job, number)) != number:
            raise UsageError(
                "message.twice",
                f"{file}, line {number}: cannot send the job {message.job} again, line {first} has it",
                hint="give each line a job of its own: the same name is the same job",
                field="job",
            )
        messages.append(message)
    return messages


def _completed(line: str, label: str) -> str:
    """The line with the version and the label that it leaves out; one that is no object stays as it is."""
    try:
        values = from_json(line, allow_inf_nan=False)
    except ValueError:
        return line
    if not isinstance(values, dict) or len(line) > LARGEST:
        return line
    return json.dumps({"v": VERSION, **({"label": label} if label else {}), **values})


def make_messages(
    kind: JobKind, manifests: Sequence[str], *, folder: str, name: str, to: str, fields: dict[str, Any], label: str
) -> list[Message]:
    """A message for each bundle that was found below `folder`. Raises `UsageError` for fields that do not fit.

    `to` is the folder of copies: each goes where its bundle lies below `folder`, so that none meets another.
    """
    return [
        _read(
            {
                "v": VERSION,
                "job": job_name(name, manifest),
                "kind": kind.value,
                "request": {**fields, **_source(kind, manifest), **_target(manifest, folder, to)},
                "label": label,
            }
        )
        for manifest in manifests
    ]


def _read(values: dict[str, Any]) -> Message:
    try:
        return read_message(json.dumps(values))
    except MessageError as error:
        raise UsageError(error.code, error.message, hint=error.hint, field=error.field) from error


def _source(kind: JobKind, manifest: str) -> dict[str, str]:
    return {"source" if kind is JobKind.CONVERT else "manifest": manifest}


def _target(manifest: str, folder: str, to: str) -> dict[str, list[str]]:
    if not to:
        return {}
    below = manifest.rpartition("/")[0].removeprefix(folder).strip("/")
    return {"destinations": ["/".join(filter(None, (to.rstrip("/"), below)))]}


def job_name(name: str, manifest: str) -> str:
    """The name of the job of a bundle: readable, and another one for every manifest."""
    plain = f"{name}/{manifest.removeprefix(SCHEME)}"
    fitting = _NOT_IN_A_NAME.sub("_", plain)
    if fitting == plain and len(plain) <= _LONGEST_NAME:
        return plain
    digest = hashlib.sha256(plain.encode()).hexdigest()[:_DIGEST]
    room = _LONGEST_NAME - _DIGEST - 2
    # The end says more about a manifest than the begin.
    begin, end = fitting[: room // 3], fitting[-(room - room // 3) :]
    return f"{begin if len(fitting) > room else fitting}-{digest}" + (f"-{end}" if len(fitting) > room else "")
