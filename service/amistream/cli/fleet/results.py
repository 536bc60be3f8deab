"""Reads the results of a fleet's jobs, and shows them as tables. Nothing here uses the network."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from pydantic import ValidationError

from amistream.cli.table import columns, counted
from amistream.fleet.results import ResultModel
from amistream.reports import Report
from amistream.units import duration_text, time_text


def read_result(body: str) -> ResultModel | None:
    """The result in a message of a results queue, also if EventBridge or SNS put it there; None if it is none."""
    try:
        values = json.loads(document_of(body))
        # Hosts of a later version may say more.
        known = {name: value for name, value in values.items() if name in ResultModel.model_fields}
    except (ValueError, AttributeError):
        return None
    for given in (known, {**known, "result": None}):
        try:
            return ResultModel.model_validate_json(json.dumps(given))
        except ValidationError:
            continue
    return None


def document_of(body: str) -> str:
    """The document as the host sent it, without the envelope of EventBridge or SNS; on one line. Raises ValueError."""
    values = json.loads(body)
    if isinstance(values, dict) and isinstance(values.get("detail"), dict):
        values = values["detail"]
    elif isinstance(values, dict) and isinstance(values.get("Message"), str):
        values = json.loads(values["Message"])
    return json.dumps(values)


def last_of_each(results: Iterable[ResultModel]) -> list[ResultModel]:
    """The last result of each job, in the order of their ends; of messages without a name, all.

    Of results with the same id, which are one that was sent again, the first counts.
    """
    last: dict[str, ResultModel] = {}
    seen: set[str] = set()
    for each in sorted(results, key=lambda each: each.ended_at):
        if each.id in seen:
            continue
        seen.add(each.id)
        key = each.job or each.id
        last.pop(key, None)
        last[key] = each
    return list(last.values())


def results_text(results: Sequence[ResultModel]) -> str:
    """Format a table of results, and their number by outcome."""
    outcomes = [each.outcome.value for each in results]
    counts = ", ".join(f"{outcomes.count(outcome)} {outcome}" for outcome in dict.fromkeys(outcomes))
    summary = counted(len(results), "result") + (f": {counts}" if results else "")
    if not results:
        return summary
    head = ("OUTCOME", "ENDED", "TOOK", "TRY", "HOST", "JOB", "RESULT")
    return f"{columns([head, *map(result_row, results)])}\n\n{summary}"


def result_line(result: ResultModel) -> str:
    """Format one result as a line."""
    return "  ".join(result_row(result))


def result_row(result: ResultModel) -> tuple[str, ...]:
    took = duration_text((result.ended_at - result.started_at).total_seconds()) if result.started_at else "-"
    ended = time_text(result.ended_at)
    return (result.outcome.value, ended, took, str(result.attempt), result.host, result.job or "-", _made(result))


def _made(result: ResultModel) -> str:
    """The thing that the job made, or the reason why it did not."""
    if result.error is not None:
        return f"{result.error.code}: {result.error.message}"
    made = result.result
    if isinstance(made, Report):
        return "no differences" if not made.differences else counted(len(made.differences), "difference")
    names = [getattr(made, field, None) for field in ("image_id", "snapshot_id", "manifest")]
    return " ".join(filter(None, names)) or result.label or "-"
