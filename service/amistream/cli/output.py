"""Output of a command: results to stdout, everything else to stderr, errors in one form.

Names and messages may come from other users: characters that control a terminal are escaped.

On a terminal long lines are folded between words, and colours show what is wrong (`cli.terminal`).

A reader that leaves early (`amistream jobs | head -1`) is no error: the rest is dropped and the exit status stays. A
result that cannot be written, for example to a full disk, is an error even if the work is done.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, TextIO, TypeVar

from amistream.cli.terminal import folded, has_colours, painted, width_of
from amistream.errors import EXIT_DONE, AmistreamError

if TYPE_CHECKING:
    from pydantic import BaseModel

_Answer = TypeVar("_Answer", bound="BaseModel")

_lost: list[OSError] = []
"""Reasons why results could not be written."""
_ERROR = "amistream: "
_NOT_PLAIN = re.compile(r"[^\n\t -~]")


def visible(text: str) -> str:
    r"""Escape unprintable characters as in JSON (`\u001b`); valid in JSON, too."""
    return _NOT_PLAIN.sub(lambda found: found[0] if found[0].isprintable() else json.dumps(found[0])[1:-1], text)


def put(stream: TextIO, text: str, paint: Callable[[str], str] | None = None) -> None:
    """Write `text` and a line end now; nothing more once nobody reads `stream`. `paint` colours each line.

    Does not raise: `lost_output` reports a result that could not be written.
    """
    shown = folded(visible(text), width_of(stream))
    if paint is not None and has_colours(stream):
        shown = "\n".join(map(paint, shown.split("\n")))
    try:
        stream.write(shown + "\n")
        stream.flush()
    except OSError as error:
        # Buffered text would fail again when the interpreter closes the stream: discard it.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
        if stream is sys.stdout and not isinstance(error, BrokenPipeError):
            _lost.append(error)


def lost_output() -> AmistreamError | None:
    """Give the error of results that could not be written since the last call."""
    if not _lost:
        return None
    why = _lost[0].strerror
    _lost.clear()
    return AmistreamError(
        "output.failed",
        f"cannot write to the standard output: {why}",
        hint="what the command was to do is done: send its output elsewhere, or ask again with `amistream jobs`",
    )


def put_result(text: str, paint: Callable[[str], str] | None = None) -> None:
    put(sys.stdout, text, paint)


def put_answer(
    answer: _Answer, as_text: Callable[[_Answer], str], *, as_json: bool, put: Callable[[str], None] = put_result
) -> int:
    """Write a command's result as JSON or as text, and return the exit status of success."""
    put(answer.model_dump_json() if as_json else as_text(answer))
    return EXIT_DONE


def put_note(text: str) -> None:
    put(sys.stderr, text, _paint_note)


def put_error(error: AmistreamError) -> None:
    """Write an error to stderr: its message, its hint, and the id of the request that AWS refused, on a line each."""
    put_note(f"{_ERROR if error.is_failure else ''}{error}")
    if error.request_id:
        put_note(f"AWS knows the request as {error.request_id}")


def _paint_note(line: str) -> str:
    for beginning, style in ((_ERROR, "bad"), ("note: ", "careful")):
        if line.startswith(beginning):
            return painted(beginning.rstrip(), style) + line[len(beginning) - 1 :]
    return line


def put_error_document(error: AmistreamError, *, aside: bool = False) -> None:
    """Write an error for machines, to stdout or with `aside` to stderr: `{"error": {code, message, hint, field}}`."""
    (put_note if aside else put_result)(json.dumps({"error": error.as_dict()}))
