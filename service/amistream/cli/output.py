"""Where the command's words go: results to stdout, everything else to stderr, errors in one form.

Names and messages come from others: a character that steers a terminal is written out, never sent to it.

A reader that leaves early (`amistream jobs | head -1`) is not an error: what would have been written is dropped and the
exit status stays that of the work. A result that cannot be written, as to a full disk, fails work that is done.
"""

from __future__ import annotations

import json
import os
import re
import sys
from typing import TextIO

from amistream.errors import AmistreamError

_lost: list[OSError] = []
"""Why results could not be written."""
_NOT_PLAIN = re.compile(r"[^\n\t -~]")


def visible(text: str) -> str:
    r"""The text with each character that does not print as itself in JSON's form, `\u001b`: right in JSON too."""
    return _NOT_PLAIN.sub(lambda found: found[0] if found[0].isprintable() else json.dumps(found[0])[1:-1], text)


def put(stream: TextIO, text: str) -> None:
    """Write `text` and a line end now, or nothing from here on if nobody reads `stream` any more.

    Raises nothing: `lost_output` tells of a result that could not be written.
    """
    try:
        stream.write(visible(text) + "\n")
        stream.flush()
    except OSError as error:
        # What is still buffered would fail again when the interpreter closes the stream: let it go to nowhere.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
        if stream is sys.stdout and not isinstance(error, BrokenPipeError):
            _lost.append(error)


def lost_output() -> AmistreamError | None:
    """The error of a result that could not be written since this was asked last."""
    if not _lost:
        return None
    why = _lost[0].strerror
    _lost.clear()
    return AmistreamError(
        "output.failed",
        f"cannot write to the standard output: {why}",
        hint="what the command was to do is done: send its output elsewhere, or ask again with `amistream jobs`",
    )


def put_result(text: str) -> None:
    put(sys.stdout, text)


def put_note(text: str) -> None:
    put(sys.stderr, text)


def put_error(error: AmistreamError) -> None:
    """Say on stderr what cannot be done and why, then on a line of its own what to do."""
    put_note(f"amistream: {error}")


def put_error_document(error: AmistreamError, *, aside: bool = False) -> None:
    """The same for machines, on stdout or `aside` on stderr: `{"error": {code, message, hint, field}}`."""
    (put_note if aside else put_result)(json.dumps({"error": error.as_dict()}))
