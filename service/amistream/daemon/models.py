"""Bodies that only the socket API has, and the forms of its request headers.

Jobs, events and the request of a job are in `events` and `request`: the command line knows them too.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from amistream.events import ErrorBody

IDEMPOTENCY_KEY = "[!-~]{1,255}"
EVENT_ID = "[0-9]{1,15}"


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Health(_Model):
    """The daemon's state and its load."""

    status: Literal["ok", "stopping"] = Field(description="stopping: running jobs continue, new ones are refused")
    version: str
    jobs_running: int
    jobs_queued: int
    uptime_s: float


class ErrorResponse(_Model):
    """The body of every error response."""

    error: ErrorBody
