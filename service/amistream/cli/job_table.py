"""Formats a list of jobs from their documents, as the API gives them: no model is needed for it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from amistream.cli.table import columns
from amistream.units import time_text


def job_table(jobs: Iterable[Mapping[str, Any]]) -> str:
    """Format one line per job, oldest first, below a heading. Raises KeyError for what is no job."""
    rows = [
        (
            job["id"],
            # Something of it is left.
            f"{job['state']} (unfinished)" if job.get("resumable") else job["state"],
            time_text(datetime.fromisoformat(job["created_at"])),
            job["source"],
            " ".join(where_to(job)),
        )
        for job in jobs
    ]
    return columns([("ID", "STATE", "CREATED", "SOURCE", "DESTINATION"), *rows])


def where_to(job: Mapping[str, Any]) -> Sequence[str]:
    """The destinations of a job; of a conversion, the snapshot and the AMI as soon as it has them.

    A verification has none.
    """
    result = job.get("result") or {}
    if "snapshot_id" in result:
        return [name for name in (result["snapshot_id"], result["image_id"]) if name]
    if job.get("kind") == "verify":
        return []
    return job["destinations"] or ["EBS"]
