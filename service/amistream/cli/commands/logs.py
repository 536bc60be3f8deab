"""The command `logs`: shows what the log said about one job."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from amistream.cli.job_access import Jobs
from amistream.cli.options import ConfigOption, InProcessOption, JobArgument, JsonOption, SocketOption
from amistream.cli.output import put_answer

if TYPE_CHECKING:
    from amistream.events import JobLines, LogLine


def logs(
    job_id: JobArgument,
    *,
    in_process: InProcessOption = False,
    socket: SocketOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> int:
    """Show what was logged about one job: its submission, states, notices, repeated requests, progress, and end.

    The newest 500 lines are kept as long as the job is, of very long ones fewer: log.cut stands in place of older ones.

    Example: [bold]amistream logs last[/bold]
    """
    lines = Jobs(socket, config, in_process=in_process).lines(job_id)
    return put_answer(lines, lines_text, as_json=as_json)


def lines_text(found: JobLines) -> str:
    """Format a line each: time, level, event and values."""
    return "\n".join(_text(line) for line in found.lines) if found.lines else f"nothing was logged about job {found.id}"


def _text(line: LogLine) -> str:
    values = (f"{name}={_value(value)}" for name, value in line.fields.items() if value not in (None, "", []))
    return "  ".join(
        [f"{line.at:%Y-%m-%d %H:%M:%S}", f"{line.level:<7}", f"{line.event:<14}", " ".join(values)]
    ).rstrip()


def _value(value: Any) -> str:
    """A word as it is, and everything else as JSON, in which a value with spaces has quotes."""
    plain = isinstance(value, str) and value.isprintable() and not {" ", '"'} & set(value)
    return value if plain else json.dumps(value, ensure_ascii=False)
